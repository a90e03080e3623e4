import { cast, initTensorFlow, liveTensors, RawTensor, sparseSoftmaxCrossEntropy, tf } from '@blockwise/tensorflow';
import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { parseLlamaConfig } from './config-file.ts';
import { createLlama, type Llama } from './llama.ts';
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
interface Encoded {
  shape: number[];
  float32: string;
}
const golden = JSON.parse(readFileSync(new URL('golden/llama-variants.json', import.meta.url), 'utf8')) as Golden;

const bytesOf = ({ float32 }: Encoded) => Uint8Array.from(Buffer.from(float32, 'base64'));
const valuesOf = (encoded: Encoded) => new Float32Array(bytesOf(encoded).buffer);

function contextOf(model: Llama, ids: number[][]): tf.Tensor[] {
  const [batchSize, length] = [ids.length, ids[0].length];
  const positionIds = Int32Array.from({ length: batchSize * length }, (_, i) => i % length);
  return model.context({ batchSize, length, positionIds });
}

/** Runs all stages at once; weights given by Hugging Face name. */
function logitsOf(model: Llama, weights: Record<string, tf.Tensor>, ids: number[][], context = contextOf(model, ids)) {
  return model.stages.reduce<tf.Tensor>(
    (x, stage) => {
      const own = [...stage.parameters].map(([local, parameter]) => [local, weights[parameter.name]]);
      return stage.forward(Object.fromEntries(own), x, context);
    },
    tf.tensor1d(ids.flat(), 'int32'),
  ) as tf.Tensor2D;
}

/** Mean cross-entropy of the labelled next tokens, and its gradient by each weight. */
function lossAndGradients(model: Llama, weights: Record<string, tf.Tensor>, ids: number[][], labels: number[][]) {
  const next = labels.flatMap((row) => [...row.slice(1), -100]);
  const kept = next.flatMap((label, row) => (label === -100 ? [] : [row]));
  const targets = tf.tensor1d(kept.map((row) => next[row]), 'int32'); // prettier-ignore
  const meanLoss = tf.customGrad((logits, save) => {
    const [loss, gradient] = sparseSoftmaxCrossEntropy(logits as tf.Tensor2D, targets);
    (save as unknown as tf.GradSaveFunc)([gradient]);
    return {
      value: tf.mean(loss),
      gradFunc: (dy, saved) => tf.mul((saved as tf.Tensor[])[0], tf.div(dy, kept.length)),
    };
  });
  const names = Object.keys(weights);
  const context = contextOf(model, ids);
  const { value, grads } = tf.valueAndGrads((...values) => {
    const named = Object.fromEntries(names.map((name, i) => [name, values[i]]));
    return meanLoss(tf.gather(logitsOf(model, named, ids, context), tf.tensor1d(kept, 'int32'))) as tf.Scalar;
  })(Object.values(weights));
  return { loss: value.dataSync()[0], gradients: new Map(names.map((name, i) => [name, grads[i].dataSync()])) };
}

function largestError(found: ArrayLike<number>, expected: Float32Array): number {
  const scale = expected.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  return expected.reduce((most, x, i) => Math.max(most, Math.abs(found[i] - x)), 0) / scale;
}

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
