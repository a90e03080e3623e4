import { cast, initTensorFlow, liveTensors, RawTensor, tf } from '@blockwise/tensorflow';
import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { parseLlamaConfig } from './config-file.ts';
import {
  bytesOf,
  largestError,
  logitsOf,
  lossAndGradients,
  valuesOf,
  type Encoded,
} from './golden-model.test-support.ts';
import { llama_110m } from './config.ts';
import { createLlama, llamaContext, masked, type Llama } from './llama.ts';
import type { JsonObject } from './json-object.ts';

/** Made by tools/golden/llama_variants.py with transformers; versions inside. */
interface Golden {
  inputIds: number[][];
  attentionMask: number[][];
  labels: number[][];
  variants: {
    name: string;
    config: JsonObject;
    weights: Record<string, Encoded>;
    logits: Encoded;
    loss: number;
    gradients: Record<string, Encoded>;
  }[];
}
const golden = JSON.parse(readFileSync(new URL('golden/llama-variants.json', import.meta.url), 'utf8')) as Golden;

beforeAll(() => initTensorFlow());

describe.each(golden.variants)('a Llama with $name', ({ config, weights, logits, loss, gradients }) => {
  const build = () => {
    const raw = Object.entries(weights).map(([name, encoded]) => [name, encoded.shape, bytesOf(encoded)] as const);
    const { config: parsed } = parseLlamaConfig(config);
    return createLlama(
      parsed,
      new Map(raw.map(([name, shape, bytes]) => [name, RawTensor.fromBytes(bytes, shape, 'float32')])),
    );
  };
  const floats = (model: Llama) =>
    Object.fromEntries([...model.parameters].map(([name, parameter]) => [name, cast(parameter.acquire())]));

  it("gives transformers' logits within 1e-5 of the largest", () => {
    tf.tidy(() => {
      const model = build();
      const found = logitsOf(model, floats(model), golden.inputIds).dataSync();
      model.dispose();
      // Padding rows are nobody's: transformers hides padding from them, the causal mask alone does not.
      const real = golden.attentionMask
        .flat()
        .flatMap((mask) => Array<boolean>(config.vocab_size as number).fill(mask === 1));
      const only = (values: ArrayLike<number>) => Float32Array.from(values).filter((_, i) => real[i]);
      expect(largestError(only(found), only(valuesOf(logits)))).toBeLessThan(1e-5);
    });
  });

  it("gives torch's loss and the gradient of every weight", () => {
    tf.tidy(() => {
      const model = build();
      const found = lossAndGradients(model, floats(model), golden.inputIds, golden.labels);
      model.dispose();
      expect(found.loss).toBeCloseTo(loss, 5);
      expect([...found.gradients.keys()].sort()).toEqual(Object.keys(gradients).sort());
      for (const [name, expected] of Object.entries(gradients))
        expect([name, largestError(found.gradients.get(name)!, valuesOf(expected)) < 2e-5]).toEqual([name, true]);
    });
  });

  it('leaves no tensor behind', () => {
    const before = liveTensors();
    tf.tidy(() => {
      const model = build();
      logitsOf(model, floats(model), golden.inputIds);
      model.dispose();
    });
    expect(liveTensors()).toBe(before);
  });
});

it('refuses weights that are missing or misshapen, by name', async () => {
  const { config } = parseLlamaConfig(golden.variants[0].config);
  expect(() => createLlama(config, new Map())).toThrow('weight model.embed_tokens.weight of shape [24,16] is missing');
  const wrong = RawTensor.fromBytes(new Uint8Array(8), [2], 'float32');
  expect(() => createLlama(config, new Map([['model.embed_tokens.weight', wrong]]))).toThrow(
    'weight model.embed_tokens.weight has shape [2]; config.json implies [24,16]',
  );
  wrong.dispose();
});

it("hides later tokens and those of a row's other examples", () => {
  const maskOf = (segments?: number[]) => {
    const positionIds = Int32Array.of(0, 1, 0, 0, 0, 1);
    const segmentIds = segments && Int32Array.from(segments);
    const tables = llamaContext(llama_110m, { batchSize: 2, length: 3, positionIds, segmentIds });
    const [, , mask] = tables.map((table) => ({ shape: table.shape, values: [...table.dataSync()] }));
    tf.dispose(tables);
    return { shape: mask.shape, seen: mask.values.map((value) => (value === 0 ? 1 : value === Math.fround(masked) ? 0 : NaN)) }; // prettier-ignore
  };
  const before = liveTensors();
  expect(maskOf()).toEqual({ shape: [1, 1, 1, 3, 3], seen: [1, 0, 0, 1, 1, 0, 1, 1, 1] });
  const seen = [...[1, 0, 0, 1, 1, 0, 0, 0, 1], ...[1, 0, 0, 0, 1, 0, 0, 1, 1]];
  expect(maskOf([1, 1, 2, 1, 2, 2])).toEqual({ shape: [2, 1, 1, 3, 3], seen });
  expect(liveTensors()).toBe(before);
});
