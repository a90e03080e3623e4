import Papa from 'papaparse';
import { describe, expect, it } from 'vitest';
import { exampleRunRecord } from './example-run-record.test-support.ts';
import { lossCsv } from './loss-table.ts';
import { adamBytes, badamBytes, memoryMarkdown } from './memory-table.ts';
import { csvTable, markdownTable } from './tables.ts';

describe('markdownTable', () => {
  it('aligns columns, leaves missing cells empty and keeps bars and line ends inside their cell', () => {
    const table = markdownTable(
      [{ title: 'kind' }, { title: 'size (GB)', numeric: true }],
      [
        ['a|b', 1.5],
        ['two\nlines', null],
      ],
    );
    expect(table).toBe(
      [
        '| kind      | size (GB) |',
        '| --------- | --------: |',
        '| a\\|b      |       1.5 |',
        '| two lines |           |',
        '',
      ].join('\n'),
    );
  });
});

describe('csvTable', () => {
  it('quotes commas, quotes and line ends, and keeps every digit', () => {
    expect(csvTable(['a,b', 'c'], [['say "x"\n', 0.1 + 0.2]])).toBe('"a,b",c\n"say ""x""\n",0.30000000000000004\n');
  });

  it('writes the header alone for no rows', () => {
    expect(csvTable(['a', 'b'], [])).toBe('a,b\n');
  });
});

describe('loss.csv', () => {
  it('has a line for each step and for the validation before training, with the validation loss beside its step', () => {
    const record = exampleRunRecord(60);
    const parsed = Papa.parse<string[]>(lossCsv(record).trimEnd());
    expect(parsed.errors).toEqual([]);
    const [header, before, ...lines] = parsed.data;
    expect(header).toEqual(['step', 'epoch', 'loss', 'learning_rate', 'block', 'validation_loss']);
    expect(before).toEqual(['0', '', '', '', '', String(record.validation[0]!.loss)]);
    expect(lines).toHaveLength(60);
    const { step, epoch, loss, learningRate, block } = record.steps[19]!;
    expect(lines[19]).toEqual([...[step, epoch, loss, learningRate, block, record.validation[1]!.loss].map(String)]);
    expect(lines[20]![5]).toBe('');
  });

  it('is the same for two runs that differ in time and machine only', () => {
    const [one, other] = [exampleRunRecord(), exampleRunRecord()];
    other.startedAt = '2031-01-01T00:00:00.000Z';
    other.timing.total = 9999;
    other.steps.forEach((entry) => (entry.seconds *= 3));
    expect(lossCsv(other)).toBe(lossCsv(one));
  });
});

describe('memory.md', () => {
  it("agrees with the paper's estimate for Adam and its lower bound for BAdam on Llama 3-8B (Table 2)", () => {
    const llama3 = 8_030_261_248;
    expect(adamBytes(llama3) / 1e9).toBeCloseTo(144.5, 1);
    // 16.1 parameters + 0.9 gradients + 2.6 optimizer states, where embedding and head are in no block.
    expect(badamBytes(llama3, 32) / 1e9).toBeCloseTo(20.1, 1);
    expect(badamBytes(1e9, 1)).toBe(adamBytes(1e9));
  });

  it('holds numbers for a record without a model, as older failed runs left it', () => {
    const record = exampleRunRecord();
    record.model = { name: 'embedded', parameters: 0, layers: 0, blocks: 0 };
    expect(memoryMarkdown(record)).not.toMatch(/NaN|Infinity/);
    record.model.parameters = 1e9;
    expect(memoryMarkdown(record)).not.toMatch(/NaN|Infinity/);
  });

  it('sets planned beside measured with their ratio, and the formulas below, in GB of 1e9 bytes', () => {
    const lines = memoryMarkdown(exampleRunRecord()).split('\n');
    const row = (start: string) =>
      lines
        .find((line) => line.startsWith(`| ${start} `))
        ?.split('|')
        .slice(2, -1)
        .map((cell) => cell.trim());
    expect(lines).toContain(
      "GB = 1e9 bytes. Empty cells were not measured. A peak is one moment's sum, so it can be less than its kinds together.",
    );
    expect(row('kind')).toEqual(['planned (GB)', 'measured (GB)', 'measured / planned']);
    expect(row('gradients')).toEqual(['1.600', '1.200', '0.75']);
    expect(row('workspace')).toEqual(['0.250', '', '']);
    expect(row('peak')).toEqual(['9.000', '9.450', '1.05']);
    expect(row('peak anonymous')).toEqual(['', '8.100', '']);
    expect(row('Adam')).toEqual(['18M, M = 1.2', '21.600']);
    expect(row('BAdam')).toEqual(['2M + 16M/D, M = 1.2, D = 3', '8.800']);
    expect(row('this run, planned')?.[1]).toBe('8.800');
    expect(row('this run, measured')?.[1]).toBe('8.400');
  });

  it('says where its figures come from', () => {
    const report = memoryMarkdown(exampleRunRecord());
    for (const part of [
      '`npx nx run experiments:alpaca-llama --seed 7`',
      'Example CPU, 2 cores, 24 GiB',
      'libtensorflow 2.21.0',
      'seed: 7',
      '0123456789ab',
    ]) {
      expect(report).toContain(part);
    }
  });

  it('turns to MB below 1 GB and leaves empty what a run did not plan or measure', () => {
    const record = exampleRunRecord();
    record.memory.planned = null;
    for (const kind of Object.keys(record.memory.measured)) record.memory.measured[kind as 'peak'] = null;
    record.memory.measured.peakResident = 123_456_789;
    const report = memoryMarkdown(record);
    expect(report).toContain('MB = 1e6 bytes');
    expect(report).toMatch(/\| peak resident \(process\) \| +\| +123\.457 \| +\|/);
    expect(report).toMatch(/\| this run, planned +\| parameters \+ gradients \+ optimizer states \| +\|/);
  });
});
