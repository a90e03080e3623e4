import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadTokenizer } from '@blockwise/loaders';
import { describe, expect, it } from 'vitest';
import { corpus } from './corpus.ts';
import { trainByteLevel, trainMerges } from './tokenizer.ts';
import { embeddedData, embeddedDataFiles, embeddedFolder } from './write-data.ts';

describe('trainMerges', () => {
  it('learns the merges of the textbook example (Hugging Face course, chapter 6, byte pair encoding)', () => {
    const counts = new Map([
      ['hug', 10],
      ['pug', 5],
      ['pun', 12],
      ['bun', 4],
      ['hugs', 5],
    ]);
    const { vocab, merges } = trainMerges(counts, ['b', 'g', 'h', 'n', 'p', 's', 'u'], 10);
    expect(merges).toEqual([
      ['u', 'g'],
      ['u', 'n'],
      ['h', 'ug'],
    ]);
    expect(vocab).toEqual({ b: 0, g: 1, h: 2, n: 3, p: 4, s: 5, u: 6, ug: 7, un: 8, hug: 9 });
  });

  it('breaks ties by the lowest ids, as the trainer of Python tokenizers does, and stops when no pair is left', () => {
    const { merges } = trainMerges(
      new Map([
        ['ba', 1],
        ['ab', 1],
      ]),
      ['a', 'b'],
      100,
    );
    expect(merges).toEqual([
      ['a', 'b'],
      ['b', 'a'],
    ]);
  });
});

describe('the embedded tokenizer', () => {
  const tokenizer = loadTokenizer(join(embeddedFolder, 'model'));

  it('is what training on the corpus gives', () => {
    for (const [path, content] of embeddedDataFiles()) {
      expect(readFileSync(join(embeddedFolder, path), 'utf8') === content, `${path}: run embedded:data again`).toBe(
        true,
      );
    }
  });

  it('has 1,024 tokens, <pad>, <s> and </s> first', () => {
    expect(tokenizer.vocabSize).toBe(embeddedData.vocabSize);
    expect(tokenizer.pad).toEqual({ token: '<pad>', id: 0 });
    expect(tokenizer.bos).toEqual({ token: '<s>', id: 1 });
    expect(tokenizer.eos).toEqual({ token: '</s>', id: 2 });
  });

  it('gives every text back, also with characters that the corpus lacks, and puts <s> before it', () => {
    const texts = [...corpus(123, 500), 'Ünïcödé 🙂\ttabs\n\n  and  spaces ', "it's 12,345 (ok)"];
    for (const text of texts) {
      const ids = tokenizer.encode(text);
      expect(ids[0]).toBe(1);
      expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(text);
    }
  });

  it('spends few tokens on the text it was made for', () => {
    const texts = corpus(123, 500);
    const tokens = texts.reduce((sum, text) => sum + tokenizer.encode(text).length, 0);
    const characters = texts.reduce((sum, text) => sum + text.length, 0);
    expect(characters / tokens).toBeGreaterThan(3.2);
  });

  it('makes no token of a word and its neighbour', () => {
    const { vocab } = trainByteLevel(['the cat the cat the cat'], 300);
    expect(Object.keys(vocab).some((token) => /.Ġ/u.test(token))).toBe(false);
    expect(vocab).toHaveProperty('Ġcat');
  });
});
