import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { embedded } from './embedded.ts';
import { resolveOptions, type Options } from './options.ts';
import { prepareData } from './prepare-data.ts';

let folder: string;
beforeEach(() => (folder = mkdtempSync(join(tmpdir(), 'blockwise-data-'))));
afterEach(() => rmSync(folder, { recursive: true }));

/** The data of the embedded model's run, or of a copy of that model, and the line that tells of it. */
async function prepared(given: Partial<Options>, model = embedded.model) {
  const lines: string[] = [];
  const data = await prepareData(resolveOptions({ cacheDir: folder, ...given }), model, (line) => lines.push(line));
  return { ...data, line: lines.join('\n') };
}

it('pads with a token of the model where the padding token was added to the tokenizer alone', async () => {
  const model = join(folder, 'padded');
  cpSync(embedded.model, model, { recursive: true });
  const edit = (name: string, change: (json: { added_tokens: object[]; pad_token: string }) => unknown) => {
    const json = JSON.parse(readFileSync(join(model, name), 'utf8')) as Parameters<typeof change>[0];
    change(json);
    writeFileSync(join(model, name), JSON.stringify(json));
  };
  edit('tokenizer.json', ({ added_tokens: added }) => added.push({ ...added[0], id: 1024, content: '[PAD]' }));
  edit('tokenizer_config.json', (config) => (config.pad_token = '[PAD]'));
  const { tokenizer, batches } = await prepared({ maxSamples: 40 }, model);
  expect(tokenizer.pad?.id).toBe(1024);
  const ids = [...batches.epochBatches()].flatMap(({ inputIds }) => [...inputIds]);
  expect(ids).toContain(0);
  expect(Math.max(...ids)).toBeLessThan(1024);
});

it.each([
  ['sft', { instruction: 'Say', output: 'so' }],
  ['pt', { text: 'Once upon a time there was a frog.' }],
] as const)(
  'max_samples takes so many records of each dataset, whatever its files (stage %s)',
  async (stage, record) => {
    const write = (name: string, count: number) =>
      writeFileSync(join(folder, name), `${JSON.stringify(record)}\n`.repeat(count));
    mkdirSync(join(folder, 'parts'));
    write('parts/0.jsonl', 2);
    write('parts/1.jsonl', 2);
    write('parts/2.jsonl', 2);
    write('whole.jsonl', 9);
    const dataset = [join(folder, 'parts'), join(folder, 'whole.jsonl')].join(',');
    const common = { stage, dataset, cutoffLen: 16, valSize: 0 };
    expect((await prepared({ ...common, maxSamples: 3 })).line).toContain('from 6 records');
    expect((await prepared({ ...common, maxSamples: 5 })).line).toContain('from 10 records');
    expect((await prepared(common)).line).toContain('from 15 records');
  },
);

it('counts the rows that texts become as examples, and what was read as records', async () => {
  const dataset = join(folder, 'texts.jsonl');
  writeFileSync(dataset, `${JSON.stringify({ text: 'Once upon a time there was a frog. '.repeat(40) })}\n`.repeat(8));
  const { line, train, validation } = await prepared({ stage: 'pt', dataset, cutoffLen: 48 });
  const rows = train.length + validation.length;
  expect(rows).toBeGreaterThan(8);
  expect(line).toBe(`data: ${dataset}: ${rows} examples from 8 records`);
});
