import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { exampleRunRecord } from './example-run-record.test-support.ts';
import { readRunRecord, writeAside, writeRunRecord } from './run-record.ts';

/** A record whose fields may be given values that its type forbids. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any
type Damaged = any;

const folder = mkdtempSync(join(tmpdir(), 'blockwise-record-'));

describe('run.json', () => {
  it('reads back equal to what was written, and leaves nothing beside it', () => {
    const place = mkdtempSync(join(folder, 'round-trip-'));
    const record = exampleRunRecord();
    writeRunRecord(join(place, 'run.json'), record);
    expect(readRunRecord(join(place, 'run.json'))).toEqual(record);
    expect(readdirSync(place)).toEqual(['run.json']);
  });

  it('holds null for a loss that was not finite, and stays readable', () => {
    const record = exampleRunRecord();
    record.steps[1]!.loss = Number.NaN;
    record.steps[2]!.gradNorm = Number.POSITIVE_INFINITY;
    const path = join(folder, 'nan.json');
    writeRunRecord(path, record);
    const read = readRunRecord(path);
    expect([read.steps[1]!.loss, read.steps[2]!.gradNorm]).toEqual([null, null]);
  });

  it('names the file and every field that does not fit, in one error', () => {
    const record = structuredClone(exampleRunRecord()) as Damaged;
    record['schemaVersion'] = 9;
    record['seed'] = '7';
    delete record['machine'].cores;
    record['status'] = 'done';
    record['steps'][3].loss = 'low';
    record['validation'] = {};
    record['versions'].packages = null;
    const path = join(folder, 'broken.json');
    writeFileSync(path, JSON.stringify(record));
    expect(() => readRunRecord(path)).toThrow(
      [
        `${path}: not a run record of version 1:`,
        'schemaVersion: found 9, expected 1',
        'seed: found "7", expected a whole number, 0 or more',
        'status: found "done", expected "running" or "finished" or "interrupted" or "failed"',
        'versions.packages: found null, expected an object',
        'machine.cores: found nothing, expected a whole number, 0 or more',
        'steps[3].loss: found "low", expected a number',
        'validation: found an object, expected a list',
      ].join('\n  '),
    );
  });

  it('stops listing after twenty problems, with a count', () => {
    const record = structuredClone(exampleRunRecord(60)) as Damaged;
    for (const step of record['steps']) step.epoch = null;
    const path = join(folder, 'many.json');
    writeFileSync(path, JSON.stringify(record));
    expect(() => readRunRecord(path)).toThrow('steps[19].epoch: found null, expected a number\n  and 40 more');
  });

  it('says when a file is missing, cut off, or no object', () => {
    const path = join(folder, 'cut.json');
    expect(() => readRunRecord(join(folder, 'none.json'))).toThrow(
      /none\.json: cannot be read \(ENOENT.*give the run\.json/,
    );
    writeFileSync(path, JSON.stringify(exampleRunRecord()).slice(0, 100));
    expect(() => readRunRecord(path)).toThrow(/cut\.json: is not JSON .*cut off\? Run again/);
    writeFileSync(path, '[]');
    expect(() => readRunRecord(path)).toThrow('the file: found a list, expected an object');
    expect(() => readRunRecord(path)).toThrow(expect.objectContaining({ name: 'UserError' }));
  });
});

describe('writeAside', () => {
  it('keeps the old file and leaves no part behind when it cannot finish', () => {
    const place = mkdtempSync(join(folder, 'aside-'));
    writeAside(join(place, 'a.txt'), 'old');
    expect(() => writeAside(join(place, 'missing', 'a.txt'), 'new')).toThrow('ENOENT');
    writeAside(join(place, 'a.txt'), new TextEncoder().encode('newer'));
    expect(readFileSync(join(place, 'a.txt'), 'utf8')).toBe('newer');
    expect(readdirSync(place)).toEqual(['a.txt']);
  });
});
