import { describe, expect, test } from 'vitest';

import { generate, streamGeneration } from './generation.ts';
import type { CachedDecoder, GenerationOptions } from './generation.ts';

const vocabulary = 16;

/** Prefers (last id + 1) mod 16, and keeps in its state all ids it was given, so that a token lost or doubled shows. */
function countingDecoder(): CachedDecoder<number[]> & { steps: number[][]; open: number } {
  const decoder = {
    steps: [] as number[][],
    open: 0,
    start: () => (decoder.open++, []),
    step: (ids: Int32Array, state: number[]) => {
      decoder.steps.push([...ids]);
      state.push(...ids);
      const logits = new Float32Array(vocabulary);
      logits[(state.at(-1)! + 1) % vocabulary] = 4;
      return logits;
    },
    dispose: () => void decoder.open--,
  };
  return decoder;
}

/** Texts of a made-up tokenizer: ids 10 and 11 are halves of one character. */
function decode(ids: readonly number[]): string {
  const pieces = ids.map((id) => (id === 10 ? '\uFFFD' : id === 11 ? 'é' : `${String.fromCharCode(97 + id)}`));
  return pieces.join('').replaceAll('\uFFFDé', 'é');
}

async function run(options: Partial<GenerationOptions>, prompt = [1, 2]) {
  const decoder = countingDecoder();
  const texts: string[] = [];
  const result = await generate(decoder, prompt, {
    maxNewTokens: 5,
    decode,
    ...options,
    onToken: ({ text }) => texts.push(text),
  });
  expect(decoder.open).toBe(0);
  return { ...result, texts, steps: decoder.steps };
}

test('feeds the prompt at once, then each token once', async () => {
  const { ids, text, finishReason, steps, texts } = await run({});
  expect(steps).toEqual([[1, 2], [3], [4], [5], [6]]);
  expect(ids).toEqual([3, 4, 5, 6, 7]);
  expect(text).toBe('defgh');
  expect(texts).toEqual(['d', 'e', 'f', 'g', 'h']);
  expect(finishReason).toBe('length');
});

test('ends at an end token, which is the last id', async () => {
  expect(await run({ eosTokenIds: [9, 5] })).toMatchObject({ ids: [3, 4, 5], finishReason: 'eos' });
});

test('cuts the text before a stop string that spans tokens, and streams nothing of it', async () => {
  const { ids, text, texts, finishReason } = await run({ stopStrings: ['xyz', 'fg'] });
  expect({ ids, text, finishReason }).toEqual({ ids: [3, 4, 5, 6], text: 'de', finishReason: 'stop' });
  expect(texts).toEqual(['d', 'e', '', '']);
});

test('streams what only looked like a stop string once it is known', async () => {
  const { text, texts } = await run({ stopStrings: ['efx'] });
  expect(texts).toEqual(['d', '', '', 'efg', 'h']);
  expect(text).toBe('defgh');
});

test('holds back half a character, and a stop string before it', async () => {
  const { text, texts } = await run({ maxNewTokens: 4 }, [8]);
  expect(texts).toEqual(['j', '', 'é', 'm']);
  expect(text).toBe('jém');
  const stopped = await run({ maxNewTokens: 4, stopStrings: ['jé'] }, [8]);
  expect(stopped).toMatchObject({ text: '', texts: ['', '', ''], finishReason: 'stop' });
});

test('gives what was held back when the tokens run out', async () => {
  const { text, texts } = await run({ maxNewTokens: 2, stopStrings: ['efg'] });
  expect(texts).toEqual(['d', 'e']);
  expect(text).toBe('de');
});

test('has ids and no text without decode', async () => {
  expect(await run({ decode: undefined })).toMatchObject({ ids: [3, 4, 5, 6, 7], text: '' });
});

test('draws the same for one seed, another for another, and greedy only at temperature 0', async () => {
  const draw = async (seed: number): Promise<readonly number[]> =>
    (await run({ maxNewTokens: 30, temperature: 2, seed })).ids;
  expect(await draw(1)).toEqual(await draw(1));
  expect(await draw(1)).not.toEqual(await draw(2));
  expect((await run({ maxNewTokens: 30, temperature: 2, topK: 1, seed: 1 })).ids).toEqual(
    (await run({ maxNewTokens: 30 })).ids,
  );
});

test('penalises the prompt and what was generated', async () => {
  // The counting decoder repeats itself after 16 tokens; 4 / 1e9 then falls below the zeros' tie, which the first token wins.
  const { ids } = await run({ maxNewTokens: 17, repetitionPenalty: 1e9 }, [15]);
  expect(ids.slice(0, 15)).toEqual(Array.from({ length: 15 }, (_, i) => i));
  expect((await run({ repetitionPenalty: -0.5 }).catch((error: Error) => error.message)) as unknown).toContain(
    'repetitionPenalty: found -0.5',
  );
});

test('waits for a decoder that answers later', async () => {
  const decoder = countingDecoder();
  const later: CachedDecoder<number[]> = { ...decoder, step: async (ids, state) => decoder.step(ids, state) };
  expect((await generate(later, [0], { maxNewTokens: 3 })).ids).toEqual([1, 2, 3]);
});

describe('the state is freed', () => {
  test('when the reader leaves early', async () => {
    const decoder = countingDecoder();
    for await (const { id } of streamGeneration(decoder, [0], { maxNewTokens: 100 })) if (id === 3) break;
    expect(decoder.steps.length).toBe(3);
    expect(decoder.open).toBe(0);
  });

  test('when a step fails', async () => {
    const decoder = countingDecoder();
    const failing: CachedDecoder<number[]> = {
      ...decoder,
      step: () => {
        throw new Error('out of memory');
      },
    };
    await expect(generate(failing, [0], { maxNewTokens: 1 })).rejects.toThrow('out of memory');
    expect(decoder.open).toBe(0);
  });
});

test('a prompt of anything but token ids is refused before it is cut down to them', async () => {
  const decoder = countingDecoder();
  for (const wrong of [1.5, NaN, 2 ** 32 + 1])
    await expect(generate(decoder, [1, wrong], { maxNewTokens: 1 })).rejects.toThrow(
      `generation: the prompt: found ${wrong}, expected token ids, integers of the vocabulary`,
    );
  expect(decoder.steps).toEqual([]);
});

test('options out of range are all named in one error, before anything is computed', async () => {
  const decoder = countingDecoder();
  const options = {
    maxNewTokens: 0,
    temperature: -1,
    topK: 1.5,
    topP: 0,
    repetitionPenalty: 0,
    seed: 0.5,
    stopStrings: [''],
  };
  const attempt = generate(decoder, [], options);
  await expect(attempt).rejects.toMatchObject({ name: 'UserError' });
  const message = await attempt.then(String, (error: Error) => error.message);
  expect(message.split('\n').map((line) => line.trim())).toEqual([
    'generation: 10 problems',
    '- the prompt has no tokens, expected at least one (the tokenizer adds <s> where it is asked to)',
    '- maxNewTokens: found 0, expected an integer above zero',
    '- temperature: found -1, expected 0 (most likely token) or above',
    '- topK: found 1.5, expected 0 (all) or a number of tokens',
    '- topP: found 0, expected a probability above 0, at most 1',
    '- repetitionPenalty: found 0, expected above 0',
    '- seed: found 0.5, expected an integer',
    '- topK and topP choose what is drawn: they need a temperature above 0',
    '- stopStrings: found an empty string, which would stop at once',
    '- stopStrings need decode, which gives the text they are looked for in',
  ]);
  expect(decoder.steps).toEqual([]);
});
