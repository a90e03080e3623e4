import { appendFileSync, mkdtempSync, readdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { openJsonLog, type JsonLog } from './json-log.ts';

interface Entry {
  step: number;
  loss: number;
}

it('is one object a line, and equal to an uninterrupted log after a kill in the middle of a line', () => {
  const folder = mkdtempSync(join(tmpdir(), 'blockwise-log-'));
  const path = join(folder, 'log.jsonl');
  const write = (log: JsonLog, from: number, to: number) => {
    for (let step = from; step <= to; step++) log.append({ step, loss: 1 / step });
  };
  write(openJsonLog(path), 1, 9);
  const whole = readFileSync(path, 'utf8');
  expect(
    whole
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Entry)[2],
  ).toEqual({ step: 3, loss: 1 / 3 });

  write(openJsonLog(path), 1, 7);
  appendFileSync(path, '{"step":8,"lo');
  write(openJsonLog(path, 5), 6, 9);
  expect(readFileSync(path, 'utf8')).toBe(whole);
  expect(readdirSync(folder)).toEqual(['log.jsonl']);
});

it('starts empty where there is nothing to go on from', () => {
  const path = join(mkdtempSync(join(tmpdir(), 'blockwise-log-')), 'log.jsonl');
  openJsonLog(path, 5);
  expect(readFileSync(path, 'utf8')).toBe('');
});
