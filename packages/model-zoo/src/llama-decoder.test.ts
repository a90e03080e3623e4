import { cast, initTensorFlow, liveTensors, tf } from '@blockwise/tensorflow';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { generate, streamGeneration, type GenerationOptions } from './generation.ts';
import { llamaDecoder } from './llama-decoder.ts';
import { openLlama } from './llama-files.ts';
import type { Llama } from './llama.ts';
import { seededRandom } from './random.ts';
import { chooseToken } from './sampling.ts';
import { tinyLlama } from './tiny-llama.test-support.ts';
import { haveStories, stories } from './stories.test-support.ts';

/** Made by tools/golden/stories260k.py with transformers; versions inside. */
interface Golden {
  greedy: { ids: number[]; text: string; margin: number };
  batch: {
    inputIds: number[][];
    logits: Encoded;
    hiddenStates: { embedding: Encoded; layer0: Encoded; finalNorm: Encoded };
  };
}
interface Encoded {
  shape: number[];
  float32: string;
}
const golden = JSON.parse(readFileSync(new URL('golden/stories260k.json', import.meta.url), 'utf8')) as Golden;
const decodeArray = ({ float32 }: Encoded) => new Float32Array(Uint8Array.from(Buffer.from(float32, 'base64')).buffer);

/** Output of every stage, without a cache, for rows of equal length. */
function forward(model: Llama, ids: readonly (readonly number[])[]): Float32Array[] {
  return tf.tidy(() => {
    const [batchSize, length] = [ids.length, ids[0].length];
    const positionIds = Int32Array.from({ length: batchSize * length }, (_, i) => i % length);
    const context = model.context({ batchSize, length, positionIds });
    let x: tf.Tensor = tf.tensor1d(ids.flat(), 'int32');
    return model.stages.map((stage) => {
      const own = [...stage.parameters].map(([local, parameter]) => [local, cast(parameter.acquire())]);
      x = stage.forward(Object.fromEntries(own), x, context);
      return x.dataSync() as Float32Array;
    });
  });
}

/** Largest difference in absolute value. */
function distance(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  expect(found.length).toBe(expected.length);
  return Array.from(expected).reduce((most, x, i) => Math.max(most, Math.abs(found[i] - x)), 0);
}

/**
 * Feeds a prompt in one step and the other ids one by one. Returns how far the logits of each step are from those of the forward without a
 * cache, relative to the largest logit.
 */
async function cacheError(model: Llama, ids: readonly number[], promptLength: number): Promise<number> {
  const decoder = llamaDecoder(model);
  const expected = forward(model, [ids]).at(-1)!;
  const V = model.config.vocab_size;
  const largest = distance(expected, new Float32Array(expected.length));
  const state = decoder.start();
  let error = 0;
  for (let length = promptLength; length <= ids.length; length++) {
    const fresh = length === promptLength ? ids.slice(0, length) : [ids[length - 1]];
    const logits = await decoder.step(Int32Array.from(fresh), state);
    error = Math.max(error, distance(logits, expected.subarray((length - 1) * V, length * V)) / largest);
  }
  expect(state.length).toBe(ids.length);
  decoder.dispose(state);
  return error;
}

function randomIds(length: number, vocabulary: number): number[] {
  const random = seededRandom(length);
  return Array.from({ length }, () => Math.floor(random() * vocabulary));
}

beforeAll(() => initTensorFlow());

describe.each([
  ['grouped queries', {}],
  [
    'biases, one key-value head and its own head_dim',
    { attention_bias: true, mlp_bias: true, num_key_value_heads: 1, head_dim: 6 },
  ],
  [
    'a tied head and linear scaling',
    { tie_word_embeddings: true, rope_parameters: { rope_type: 'linear', rope_theta: 100, factor: 4 } },
  ],
] as const)('the cache of a Llama with %s', (_, settings) => {
  // A prompt of 64 fills the first room of the cache, 65 makes it grow while the prompt is read, 130 twice.
  it.each([1, 5, 64, 65, 130])(
    'gives the logits of the forward without it, from a prompt of %i tokens on',
    async (length) => {
      const before = liveTensors();
      const model = tinyLlama(settings);
      expect(await cacheError(model, randomIds(length + 6, 24), length)).toBeLessThan(4e-6);
      model.dispose();
      expect(liveTensors()).toBe(before);
    },
  );

  it('still does after it has grown, token by token', async () => {
    const model = tinyLlama(settings);
    expect(await cacheError(model, randomIds(135, 24), 60)).toBeLessThan(4e-6);
    model.dispose();
  });
});

describe('a decoder', () => {
  it.each(['bfloat16', 'float16'] as const)('computes with %s weights as the forward does', async (dtype) => {
    const model = tinyLlama({}, dtype);
    expect(await cacheError(model, randomIds(12, 24), 7)).toBeLessThan(4e-6);
    model.dispose();
  });

  it('sees weights that are being trained', async () => {
    const model = tinyLlama();
    const decoder = llamaDecoder(model);
    const states = [decoder.start(), decoder.start()];
    const first = await decoder.step(Int32Array.of(3), states[0]);
    const norm = model.parameters.get('model.norm.weight')!;
    norm.activate();
    tf.tidy(() => norm.master!.assign(tf.mul(norm.acquire() as tf.Tensor, 2)));
    const second = await decoder.step(Int32Array.of(3), states[1]);
    states.forEach((state) => decoder.dispose(state));
    expect(distance(second, first.map((logit) => 2 * logit))).toBeLessThan(1e-4); // prettier-ignore
    model.dispose();
  });

  it('keeps sequences apart that are decoded in turn', async () => {
    const model = tinyLlama();
    const decoder = llamaDecoder(model);
    const [a, b] = [randomIds(9, 24), randomIds(10, 24)];
    const expected = [a, b].map((ids) => forward(model, [ids]).at(-1)!.slice(-24));
    const states = [decoder.start(), decoder.start()];
    await decoder.step(Int32Array.from(a.slice(0, 4)), states[0]);
    await decoder.step(Int32Array.from(b.slice(0, 7)), states[1]);
    const found = [
      await decoder.step(Int32Array.from(a.slice(4)), states[0]),
      await decoder.step(Int32Array.from(b.slice(7)), states[1]),
    ];
    found.forEach((logits, i) => expect(distance(logits, expected[i])).toBeLessThan(4e-6));
    states.forEach((state) => decoder.dispose(state));
    model.dispose();
  });

  it('refuses tokens that the model does not have, and keeps its state', async () => {
    const model = tinyLlama();
    const decoder = llamaDecoder(model);
    const state = decoder.start();
    await decoder.step(Int32Array.of(3, 4), state);
    const before = liveTensors();
    await expect(decoder.step(Int32Array.of(5, 24, -1, 24), state)).rejects.toMatchObject({
      name: 'UserError',
      message: "token ids 24, -1 are outside the vocabulary of 24: the tokenizer is another model's",
    });
    expect(liveTensors()).toBe(before);
    const logits = await decoder.step(Int32Array.of(5), state);
    expect(
      distance(
        logits,
        forward(model, [[3, 4, 5]])
          .at(-1)!
          .slice(-24),
      ),
    ).toBeLessThan(4e-6);
    decoder.dispose(state);
    model.dispose();
  });
});

describe.skipIf(!haveStories)('stories260K', () => {
  let model: Llama;
  const [start, ...continuation] = golden.greedy.ids;
  beforeAll(() => void (model = openLlama(stories).model));
  afterAll(() => model.dispose());

  /** Text of ids by tokenizer.json's vocabulary, as its decoder makes it; no tokenizer is needed for that. */
  const pieces = haveStories ? readPieces() : [];
  const decode = (ids: readonly number[]) =>
    ids
      .map((id) => pieces[id])
      .join('')
      .replace(/^ /, '');
  const run = (options: Partial<GenerationOptions>) =>
    generate(llamaDecoder(model), [start], { maxNewTokens: 200, decode, ...options });

  it("writes transformers' 200 greedy tokens after <s>, and its text", async () => {
    const { ids, text, finishReason } = await run({});
    expect(continuation.length).toBe(200);
    expect(ids).toEqual(continuation);
    expect(text).toBe(golden.greedy.text);
    // ../shared/data/README.md
    expect(text.startsWith('Once upon a time, there was a little girl named Lily. She loved to play outside in the park.')).toBe(true); // prettier-ignore
    expect(finishReason).toBe('length');
  });

  it("has transformers' logits and hidden states", () => {
    const { inputIds, logits, hiddenStates } = golden.batch;
    const outputs = forward(model, inputIds);
    expect(outputs.length).toBe(7);
    expect(distance(outputs[0], decodeArray(hiddenStates.embedding))).toBe(0);
    expect(distance(outputs[1], decodeArray(hiddenStates.layer0))).toBeLessThan(4e-6);
    expect(distance(outputs[6], decodeArray(logits))).toBeLessThan(1e-4);
    const normed = tf.tidy(() => {
      const x = tf.tensor2d(outputs[5], [32, 64]);
      const weight = cast(model.parameters.get('model.norm.weight')!.acquire());
      return tf.mul(tf.mul(x, tf.rsqrt(tf.add(tf.mean(tf.square(x), 1, true), 1e-5))), weight).dataSync();
    });
    expect(distance(normed, decodeArray(hiddenStates.finalNorm))).toBeLessThan(1e-4);
  });

  it.each([1, 5, 64, 65, 130])(
    'gives the same with a cache as without, from a prompt of %i tokens on',
    async (length) => {
      expect(await cacheError(model, golden.greedy.ids.slice(0, length + 5), length)).toBeLessThan(5e-6);
    },
  );

  it('streams the same text in pieces', async () => {
    const texts: string[] = [];
    for await (const { text } of streamGeneration(llamaDecoder(model), [start], { maxNewTokens: 40, decode })) {
      texts.push(text);
    }
    expect(texts.length).toBe(40);
    expect(texts.join('')).toBe(decode(continuation.slice(0, 40)));
  });

  it('stops before a stop string, at an end token, and where the reader stops', async () => {
    const before = liveTensors();
    const stopped = await run({ stopStrings: ['girl named', 'Lily.'] });
    expect(stopped).toMatchObject({ text: 'Once upon a time, there was a little ', finishReason: 'stop' });
    const ended = await run({ eosTokenIds: [426] }); // the full stop
    expect(ended).toMatchObject({ finishReason: 'eos' });
    expect(ended.text).toBe('Once upon a time, there was a little girl named Lily.');
    for await (const { id } of streamGeneration(llamaDecoder(model), [start], { maxNewTokens: 40 })) {
      expect(id).toBe(continuation[0]);
      break;
    }
    expect(liveTensors()).toBe(before);
  });

  const sampling = { temperature: 0.8, topK: 40, topP: 0.9, repetitionPenalty: 1.1, maxNewTokens: 60 };

  it('draws the same text from the same seed, and another from another', async () => {
    const [first, again, other] = [await run({ ...sampling, seed: 1 }), await run({ ...sampling, seed: 1 }), await run({ ...sampling, seed: 2 })]; // prettier-ignore
    expect(again).toEqual(first);
    expect(other.ids).not.toEqual(first.ids);
    expect(first.ids).not.toEqual(continuation.slice(0, 60));
  });

  it('draws from the logits of the whole text so far, with every option in force', async () => {
    // The cache's logits differ from these by 1e-6: a draw would have to fall that close to a boundary to differ.
    const { ids } = await run({ ...sampling, seed: 3 });
    const text = [start, ...ids];
    const logits = forward(model, [text]).at(-1)!;
    const random = seededRandom(3);
    const redrawn = ids.map((_, i) =>
      chooseToken(logits.slice(i * 512, (i + 1) * 512), text.slice(0, i + 1), random, sampling),
    );
    expect(ids).toEqual(redrawn);
  });

  it('is as good as greedy where the options leave one token', async () => {
    for (const options of [{ temperature: 5, topK: 1 }, { temperature: 1e-4 }, { temperature: 1, topP: 1e-6 }]) {
      expect((await run({ ...options, maxNewTokens: 30 })).ids).toEqual(continuation.slice(0, 30));
    }
  });

  it('repeats itself less under a repetition penalty', async () => {
    const distinct = (ids: readonly number[]) => new Set(ids).size;
    const penalised = await run({ repetitionPenalty: 1.5 });
    expect(distinct(penalised.ids)).toBeGreaterThan(1.2 * distinct(continuation));
  });

  it('leaves no tensor behind', async () => {
    await run({ maxNewTokens: 3 });
    const [before, numTensors] = [liveTensors(), tf.memory().numTensors];
    await run({ maxNewTokens: 70 });
    expect([liveTensors(), tf.memory().numTensors]).toEqual([before, numTensors]);
  });

  function readPieces(): string[] {
    const { model, added_tokens } = JSON.parse(readFileSync(join(stories, 'tokenizer.json'), 'utf8')) as {
      model: { vocab: Record<string, number> };
      added_tokens: { id: number; special: boolean }[];
    };
    const pieces: string[] = [];
    for (const [piece, id] of Object.entries(model.vocab)) {
      const byte = /^<0x(..)>$/.exec(piece);
      pieces[id] = byte ? String.fromCharCode(parseInt(byte[1], 16)) : piece.replaceAll('▁', ' ');
    }
    for (const { id, special } of added_tokens) if (special) pieces[id] = '';
    return pieces;
  }
});
