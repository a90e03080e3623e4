import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ignoreIndex } from './examples.ts';
import { goldenPath, hasShared, sharedData } from './test-data.ts';
import { tokeniseDataset } from './tokenised-dataset.ts';
import type { TokeniseOptions } from './tokenised-dataset.ts';
import { loadTokenizer } from './tokenizer.ts';

const tokenizer = loadTokenizer(goldenPath('byte-level'));
let folder: string;
let file: string;
let options: TokeniseOptions & { cacheDir: string };
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'blockwise-tokenised-'));
  file = join(folder, 'data.json');
  const records = ['What is tea?', 'And the sea?', 'Count to three.'].map((instruction, i) => ({
    instruction,
    input: '',
    output: 'An answer of some length. '.repeat(i + 1),
  }));
  writeFileSync(file, JSON.stringify(records));
  options = { files: [file], tokenizer, template: 'default', cutoffLen: 128, cacheDir: join(folder, 'cache') };
});
afterEach(() => rmSync(folder, { recursive: true }));
const cacheFiles = (): string[] => readdirSync(options.cacheDir);

describe('tokeniseDataset', () => {
  it('masks prompts and trains answers, and counts what the cutoff took', async () => {
    const whole = await tokeniseDataset(options);
    expect(whole).toMatchObject({ records: 3, skipped: 0, dropped: 0, truncated: 0, cutTokens: 0, fromCache: false });
    const trained = [...whole.examples[0]!.labels].filter((label) => label !== ignoreIndex);
    expect(tokenizer.decode(trained)).toBe('An answer of some length. <|end_of_text|>\n');
    const cut = await tokeniseDataset({ ...options, cutoffLen: 32 });
    const lengths = whole.examples.map(({ inputIds }) => inputIds.length);
    expect(cut.truncated).toBe(lengths.filter((length) => length > 32).length);
    expect(cut.cutTokens).toBe(lengths.reduce((sum, length) => sum + Math.max(0, length - 32), 0));
    expect(cut.examples.every(({ inputIds }) => inputIds.length <= 32)).toBe(true);
  });

  it('drops and counts examples that the cutoff leaves without a label, and refuses when none is left', async () => {
    const long = 'A very long question. '.repeat(40);
    const talk = { instruction: 'x', output: 'An answer longer than the cutoff.' };
    writeFileSync(file, JSON.stringify([{ instruction: long, output: '' }, talk]));
    const set = await tokeniseDataset({ ...options, template: 'empty', cutoffLen: 8 });
    expect(set).toMatchObject({ records: 2, dropped: 1, truncated: 1 });
    expect(tokenizer.decode(set.examples[0]!.inputIds)).toMatch(/^xAn ans/);
    writeFileSync(file, JSON.stringify([{ instruction: long, output: 'y' }]));
    await expect(tokeniseDataset({ ...options, template: 'empty', cutoffLen: 2 })).rejects.toThrow(
      `${file}: none of 1 records has a token to learn within cutoff_len 2; raise cutoff_len.`,
    );
  });

  it('joins texts for pretraining', async () => {
    const text = join(folder, 't.txt');
    writeFileSync(text, 'Once upon a time.\nThe end, and nothing more to tell.\n');
    const set = await tokeniseDataset({ ...options, files: [text], stage: 'pt', cutoffLen: 8 });
    const joined = set.examples.flatMap(({ inputIds }) => [...inputIds]);
    expect('Once upon a time.<|end_of_text|>The end, and nothing more to tell.<|end_of_text|>').toContain(
      tokenizer.decode(joined),
    );
    expect(set.examples.every(({ inputIds }) => inputIds.length === 8)).toBe(true);
    await expect(tokeniseDataset({ ...options, files: [text], stage: 'pt', cutoffLen: 500 })).rejects.toThrow(
      /tokens in all, fewer than cutoff_len 500, make no example; lower cutoff_len\./,
    );
    await expect(tokeniseDataset({ ...options, files: [text] })).rejects.toThrow(
      'holds texts; stage sft needs instructions with answers (Alpaca or ShareGPT).',
    );
    await expect(tokeniseDataset({ ...options, stage: 'pt' })).rejects.toThrow(
      'holds conversations; stage pt needs records with a "text".',
    );
  });

  it('refuses a cutoff that is no length, a template that is none, and a file that is missing', async () => {
    await expect(tokeniseDataset({ ...options, cutoffLen: 1.5 })).rejects.toThrow(
      'cutoff_len: found 1.5; expected a whole number of tokens, at least 2.',
    );
    await expect(tokeniseDataset({ ...options, template: 'nope' })).rejects.toThrow('unknown template "nope"');
    await expect(tokeniseDataset({ ...options, files: [`${file}x`] })).rejects.toThrow(
      /data\.jsonx: cannot be read \(ENOENT/,
    );
  });

  it.skipIf(!hasShared('models/llama2_tokenizer') || !hasShared('alpaca_gpt4'))(
    'takes the 999 real Alpaca records in seconds',
    async () => {
      const llama2 = loadTokenizer(`${sharedData}/models/llama2_tokenizer`);
      const start = performance.now();
      const set = await tokeniseDataset({
        files: [`${sharedData}/alpaca_gpt4/alpaca_gpt4_data_en_999.json`],
        tokenizer: llama2,
        template: 'alpaca',
        cutoffLen: 1024,
      });
      const tokens = set.examples.reduce((sum, { inputIds }) => sum + inputIds.length, 0);
      console.log(
        `999 Alpaca records, Llama 2 tokenizer: ${tokens} tokens in ${Math.round(performance.now() - start)} ms`,
      );
      expect(set).toMatchObject({ records: 999, dropped: 0, truncated: 0 });
    },
  );
});

describe('the cache of tokenised examples', () => {
  it('gives back the same examples and counts, and leaves one complete file', async () => {
    const built = await tokeniseDataset({ ...options, cutoffLen: 32 });
    const cached = await tokeniseDataset({ ...options, cutoffLen: 32 });
    expect(cached).toEqual({ ...built, fromCache: true });
    expect(cacheFiles()).toHaveLength(1);
    expect(cacheFiles()[0]).toMatch(/^[0-9a-f]{64}\.tokens$/);
  });

  it('is keyed by what decides the examples: file bytes, tokenizer, template, cutoff, stage', async () => {
    await tokeniseDataset(options);
    const again = async (change: Partial<TokeniseOptions>) =>
      (await tokeniseDataset({ ...options, ...change })).fromCache;
    expect(await again({ cutoffLen: 64 })).toBe(false);
    expect(await again({ template: 'alpaca' })).toBe(false);
    expect(await again({ tokenizer: { ...tokenizer, fingerprint: 'other' } })).toBe(false);
    expect(await again({})).toBe(true);
    // The same bytes elsewhere are the same data.
    const moved = join(folder, 'moved.json');
    writeFileSync(moved, readFileSync(file));
    expect(await again({ files: [moved] })).toBe(true);
    writeFileSync(file, readFileSync(file, 'utf8').replace('tea', 'pea'));
    expect(await again({})).toBe(false);
  });

  it('is built anew on request, and when its file is cut short or altered', async () => {
    const built = await tokeniseDataset(options);
    expect((await tokeniseDataset({ ...options, overwriteCache: true })).fromCache).toBe(false);
    const path = join(options.cacheDir, cacheFiles()[0]!);
    const damage: (() => void)[] = [
      () => truncateSync(path, statSync(path).size - 4),
      () => truncateSync(path, 10),
      () => {
        const bytes = readFileSync(path);
        bytes[bytes.length - 5]! ^= 1;
        writeFileSync(path, bytes);
      },
    ];
    for (const hurt of damage) {
      hurt();
      expect(await tokeniseDataset(options)).toEqual(built);
      expect((await tokeniseDataset(options)).fromCache).toBe(true);
    }
  });

  it('is gone without, with a warning, where its folder cannot be made', async () => {
    const warn = vi.spyOn(console, 'warn').mockReturnValue();
    const cacheDir = join(file, 'cache');
    expect((await tokeniseDataset({ ...options, cacheDir })).examples).toHaveLength(3);
    expect(warn.mock.calls).toEqual([
      [expect.stringMatching(/^warning: .*data\.json\/cache: tokenised data cannot be kept there \(ENOTDIR\), so/)],
    ]);
    warn.mockRestore();
  });

  it('is not made where no folder is given', async () => {
    const { files, template, cutoffLen } = options;
    const uncached = { files, tokenizer, template, cutoffLen };
    await tokeniseDataset(uncached);
    expect((await tokeniseDataset(uncached)).fromCache).toBe(false);
    expect(readdirSync(folder)).toEqual(['data.json']);
  });
});
