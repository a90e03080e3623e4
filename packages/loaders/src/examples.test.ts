import { describe, expect, it } from 'vitest';
import { encodeTexts, inferSeqlen } from './examples.ts';
import { loadTemplate } from './templates.ts';
import { goldenPath } from './test-data.ts';
import { loadTokenizer } from './tokenizer.ts';

describe('inferSeqlen', () => {
  // Worked out by hand from LLaMA-Factory's infer_seqlen; templates.test.ts checks whole examples.
  it('keeps a short answer and cuts the prompt', () =>
    expect(inferSeqlen(1000, 30, 100)).toEqual({ source: 70, target: 30 }));
  it('keeps a short prompt and cuts the answer', () =>
    expect(inferSeqlen(30, 1000, 100)).toEqual({ source: 30, target: 70 }));
  it('cuts both in proportion', () => expect(inferSeqlen(300, 600, 100)).toEqual({ source: 34, target: 66 }));
  it('cuts nothing that fits', () => expect(inferSeqlen(60, 40, 100)).toEqual({ source: 60, target: 40 }));
});

describe('encodeTexts', () => {
  const tokenizer = loadTokenizer(goldenPath('byte-level'));
  const template = loadTemplate('default', tokenizer);
  const texts = [
    [1, 2, 3],
    [4, 5],
    [6, 7, 8, 9],
  ];

  it('joins texts with their end tokens, cuts them into equal examples and drops the rest', () => {
    const end = tokenizer.eos!.id;
    const { examples, cutTokens } = encodeTexts(tokenizer, template, texts, 5);
    expect(examples.map(({ inputIds }) => [...inputIds])).toEqual([
      [1, 2, 3, end, 4],
      [5, end, 6, 7, 8],
    ]);
    expect(examples.every(({ inputIds, labels }) => inputIds.join() === labels.join())).toBe(true);
    expect(cutTokens).toBe(2);
  });

  it('starts each example with bos where the tokenizer adds one', () => {
    const adding = { ...tokenizer, addBosToken: true };
    const first = encodeTexts(adding, template, texts, 5).examples.map(({ inputIds, labels }) => [
      inputIds[0],
      labels[0],
    ]);
    expect(first).toEqual([
      [tokenizer.bos!.id, tokenizer.bos!.id],
      [tokenizer.bos!.id, tokenizer.bos!.id],
    ]);
  });
});
