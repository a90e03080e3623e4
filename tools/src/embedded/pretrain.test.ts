import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { createRandom, loadTokenizer } from '@blockwise/loaders';
import { createLlama, openWeights, readLlamaConfig, type LlamaConfig } from '@blockwise/model-zoo';
import { initTensorFlow, liveTensors, tf } from '@blockwise/tensorflow';
import { beforeAll, describe, expect, it } from 'vitest';
import { corpusDocument } from './corpus.ts';
import { embeddedConfig, freshWeights, pretrain, pretrainDefaults, tokenRows } from './pretrain.ts';
import { WholeModelLoss } from './whole-model-loss.ts';
import { embeddedFolder } from './write-data.ts';

const folder = join(embeddedFolder, 'model');
const tokenizer = loadTokenizer(folder);
const tiny: LlamaConfig = {
  ...embeddedConfig,
  hidden_size: 32,
  intermediate_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  head_dim: 16,
};
const tinyModel = () => createLlama(tiny, freshWeights(tiny, createRandom(1)));

beforeAll(() => initTensorFlow());

describe('tokenRows', () => {
  it('is the corpus in order, each document between <s> and </s>, each row beginning with the last token of the one before', () => {
    const rows = tokenRows(tokenizer, 5, 64);
    const taken = Array.from({ length: 12 }, () => rows.next().value as Int32Array);
    expect(taken.every((row) => row.length === 65)).toBe(true);
    for (let i = 1; i < taken.length; i++) expect(taken[i][0]).toBe(taken[i - 1][64]);
    const text = tokenizer.decode(taken.flatMap((row) => [...row.subarray(0, 64)]));
    expect(text.startsWith(`<s>${corpusDocument(5, 0)}</s><s>${corpusDocument(5, 1)}</s>`)).toBe(true);
  });
});

describe('freshWeights', () => {
  it('draws normal weights of the named spread, and ones for norms, the same for a seed', () => {
    const weights = freshWeights(embeddedConfig, createRandom(3));
    const spread = (name: string) => {
      // A bfloat16 is the upper half of a float32.
      const words = Uint32Array.from(new Uint16Array(weights.get(name)!.bytes().buffer), (word) => word << 16);
      const values = new Float32Array(words.buffer);
      const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
      return { mean, deviation: Math.sqrt(values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / values.length) };
    };
    expect(spread('model.embed_tokens.weight').deviation).toBeCloseTo(0.02, 3);
    expect(spread('model.layers.0.mlp.down_proj.weight').deviation).toBeCloseTo(0.02 / Math.sqrt(8), 3);
    expect(spread('model.norm.weight')).toEqual({ mean: 1, deviation: 0 });
    const again = freshWeights(embeddedConfig, createRandom(3));
    for (const [name, weight] of weights)
      expect(Buffer.compare(again.get(name)!.bytes(), weight.bytes()), name).toBe(0);
    for (const set of [weights, again]) set.forEach((weight) => weight.dispose());
  });
});

describe('WholeModelLoss', () => {
  it('gives the gradients of finite differences, and clips them together to the norm asked for', () => {
    const model = tinyModel();
    for (const parameter of model.parameters.values()) parameter.activate();
    const rows = [...Array(2).keys()].map(() => tokenRows(tokenizer, 9, 16).next().value as Int32Array);
    const at = (maxGradNorm: number) => {
      const loss = new WholeModelLoss(model, { batchSize: 2, length: 16, maxGradNorm });
      const gradients = new Map<string, Float32Array>();
      const { norm } = loss.run(rows, (name, gradient) => gradients.set(name, gradient.dataSync() as Float32Array));
      const plain = () => loss.run(rows).loss;
      return { loss, norm, gradients, plain };
    };
    const { gradients, plain, norm, loss } = at(1e9);
    const squares = [...gradients.values()].flatMap((values) => [...values]).reduce((sum, x) => sum + x * x, 0);
    expect(Math.sqrt(squares)).toBeCloseTo(norm, 4);
    for (const name of [
      'model.layers.0.self_attn.q_proj.weight',
      'model.layers.1.mlp.up_proj.weight',
      'model.norm.weight',
    ]) {
      // Along the gradient itself: the loss changes by |g|^2 per unit, and the float32 noise of one entry does not matter.
      const gradient = gradients.get(name)!;
      const length = Math.hypot(...gradient);
      const master = model.parameters.get(name)!.master!;
      const moved = (by: number) => {
        const delta = tf.tensor(
          gradient.map((x) => (x / length) * by),
          [...master.shape],
        );
        master.add(delta);
        const value = plain();
        master.subtract(delta);
        delta.dispose();
        return value;
      };
      expect((moved(0.02) - moved(-0.02)) / 0.04 / length).toBeCloseTo(1, 1);
    }
    const clipped = at(norm / 2);
    for (const [name, values] of clipped.gradients) {
      const full = gradients.get(name)!;
      values.forEach((x, i) => expect(x).toBeCloseTo(full[i] / 2, 5));
    }
    loss.dispose();
    clipped.loss.dispose();
    model.dispose();
  });
});

describe('pretrain', () => {
  const options = { ...pretrainDefaults, steps: 25, batchSize: 8, length: 64, warmupSteps: 5, validationRows: 16 };

  it('learns, leaves bfloat16 weights at rest, leaks nothing, and does the same again', () => {
    const before = liveTensors();
    const runs = [0, 1].map(() => {
      const model = tinyModel();
      const { validation, tokens } = pretrain(model, tokenizer, options, () => {}, 5);
      expect(tokens).toBe(25 * 8 * 64);
      expect([...model.parameters.values()].every(({ master }) => master === undefined)).toBe(true);
      const bytes = model.parameters.get('model.layers.1.mlp.up_proj.weight')!.bytes();
      model.dispose();
      return { validation, bytes };
    });
    expect(liveTensors()).toBe(before);
    const losses = runs[0].validation.map(({ loss }) => loss);
    expect(losses[0]).toBeLessThan(Math.log(1024));
    expect(losses.at(-2)!).toBeLessThan(losses[0] - 0.5);
    expect(losses.at(-1)!).toBeCloseTo(losses.at(-2)!, 1);
    runs[1].validation.forEach(({ loss }, i) => expect(loss).toBeCloseTo(losses[i], 3));
  });

  it('refuses to go on when the loss is no number', () => {
    const model = tinyModel();
    expect(() => pretrain(model, tokenizer, { ...options, learningRate: 1e30 })).toThrow(
      /loss at step \d+ is NaN: lower/,
    );
    model.dispose();
  });
});

describe('the embedded model', () => {
  it('is small, has the shape that pretraining gives it, and tells the corpus on', () => {
    const weightsFile = join(folder, 'model.safetensors');
    expect(existsSync(weightsFile)).toBe(true);
    expect(statSync(weightsFile).size).toBeLessThan(3e6);
    const { config, warnings } = readLlamaConfig(folder);
    expect(config).toEqual(embeddedConfig);
    expect(warnings).toEqual([]);
    const opened = openWeights(folder);
    const model = createLlama(
      config,
      new Map([...freshWeights(config, createRandom(0)).keys()].map((name) => [name, opened.tensor(name)])),
    );
    const loss = new WholeModelLoss(model, { batchSize: 16, length: 128, maxGradNorm: 1 });
    const rows = tokenRows(tokenizer, 777, 128); // a seed that no training used
    const { loss: value } = loss.run(Array.from({ length: 16 }, () => rows.next().value as Int32Array));
    // Stated by the model's README within sampling noise; a random model has ln 1024 = 6.9.
    const stated = Number(
      /as saved, in bfloat16 \| ([\d.]+)/.exec(readFileSync(join(folder, 'README.md'), 'utf8'))![1],
    );
    expect(Math.abs(value - stated)).toBeLessThan(0.1);
    expect(value).toBeLessThan(1.3);
    loss.dispose();
    model.dispose();
    opened.close();
  });
});
