import type { BatchSource } from '@blockwise/loaders';
import { createLlama, type Llama } from '@blockwise/model-zoo';
import { adamW, BlockOptimizer, isNormOrBias, type Optimizer } from '@blockwise/optimizers';
import { initTensorFlow, liveTensors, RawTensor, type tf } from '@blockwise/tensorflow';
import { beforeAll, describe, expect, it } from 'vitest';
import { createMicroBatch, disposeMicroBatch } from './micro-batch.ts';
import type { Gradient } from './open-gradients.ts';
import { StageWalk } from './stage-walk.ts';
import {
  largestDifference,
  lossesOf,
  tinyBatches,
  tinyExamples,
  tinyModel,
  trainOptions,
  valuesOf,
} from './tiny-model.test-support.ts';
import { train, type TrainOptions } from './train.ts';

beforeAll(() => initTensorFlow());

/** AdamW with its epsilon large beside float32 noise: where a gradient cancels, Adam would blow rounding up to whole steps. */
const base = adamW({ learningRate: 1e-2, weightDecay: 0.01, noDecay: isNormOrBias, eps: 1e-3 });
const full = (model: Llama): Optimizer => base([...model.parameters.values()]);

async function trained(
  model: Llama,
  batches: BatchSource,
  options: Partial<TrainOptions>,
  make: (model: Llama) => Optimizer = full,
) {
  const optimizer = make(model);
  const { steps } = await train({ model, optimizer, batches, options: trainOptions(options) });
  const weights = new Map([...model.parameters.keys()].map((name) => [name, valuesOf(model, name)]));
  optimizer.dispose();
  model.dispose();
  return { losses: lossesOf(steps), weights, steps };
}

/** Loss and gradients of all batches of an epoch as one step. */
async function gradientsOf(
  model: Llama,
  source: BatchSource,
  { keptBytes, ...how }: { keptBytes?: number; fused?: boolean } = {},
) {
  const walk = new StageWalk(model, { keptBytes });
  const batches = [...source.epochBatches()].map((batch) => createMicroBatch(model, batch));
  const gradients = new Map<string, Float32Array>();
  const receive = ([name, gradient]: Gradient) => {
    gradients.set(name, (gradient as tf.Tensor).dataSync() as Float32Array);
    gradient.dispose();
  };
  const loss = await walk.gradients(batches, new Set(model.parameters.keys()), receive, how);
  batches.forEach(disposeMicroBatch);
  walk.dispose();
  return { loss, gradients };
}

function expectClose(a: Map<string, Float32Array>, b: Map<string, Float32Array>, tolerance: number) {
  expect([...a.keys()].sort()).toEqual([...b.keys()].sort());
  for (const [name, values] of a) expect(largestDifference(values, b.get(name)!), name).toBeLessThan(tolerance);
}

describe('the same step in other words', () => {
  it('4 batches of 2 accumulated equal a batch of 8, whatever lengths and label counts the batches have', async () => {
    const examples = tinyExamples(16);
    const large = await trained(tinyModel(), tinyBatches(examples, { batchSize: 8 }), { totalSteps: 6 });
    const accumulated = await trained(tinyModel(), tinyBatches(examples), {
      totalSteps: 6,
      gradientAccumulationSteps: 4,
    });
    expect(largestDifference(accumulated.losses, large.losses)).toBeLessThan(1e-5);
    expectClose(accumulated.weights, large.weights, 1e-4);
    expect(accumulated.steps.map(({ epoch, tokens, examples }) => [epoch, tokens, examples])).toEqual(
      large.steps.map(({ epoch, tokens, examples }) => [epoch, tokens, examples]),
    );
  });

  it('packed rows equal the same examples a row each: loss and every gradient', async () => {
    const examples = tinyExamples(13);
    const rows = tinyBatches(examples, { batchSize: 13 });
    const packed = tinyBatches(examples, { batchSize: 13, packing: 'packed', cutoffLen: 40 });
    expect([...packed.epochBatches()][0].batchSize).toBeLessThan(5);
    const model = tinyModel();
    const [apart, together] = [await gradientsOf(model, rows), await gradientsOf(model, packed)];
    expect(together.loss).toBeCloseTo(apart.loss, 5);
    expectClose(together.gradients, apart.gradients, 1e-5);
    model.dispose();
  });

  it('more rows than the head takes at once equal fewer at a time', async () => {
    const examples = tinyExamples(320);
    const model = tinyModel();
    const large = tinyBatches(examples, { batchSize: 320 });
    const [{ labelTokens }] = [...large.epochBatches()];
    expect(labelTokens).toBeGreaterThan(1024 + 512);
    const [atOnce, inParts] = [
      await gradientsOf(model, large),
      await gradientsOf(model, tinyBatches(examples, { batchSize: 40 })),
    ];
    expect(atOnce.loss).toBeCloseTo(inParts.loss, 5);
    expectClose(atOnce.gradients, inParts.gradients, 1e-5);
    model.dispose();
  });

  it('gradients applied as they appear equal gradients collected and not clipped, bit for bit', async () => {
    const examples = tinyExamples(8);
    const streamed = await trained(tinyModel(), tinyBatches(examples), { maxGradNorm: 0 });
    const collected = await trained(tinyModel(), tinyBatches(examples), { maxGradNorm: 1e9 });
    expect(streamed.losses).toEqual(collected.losses);
    expect(streamed.weights).toEqual(collected.weights);
    expect(collected.steps.every(({ gradNorm }) => gradNorm! > 0)).toBe(true);
  });

  it('clipping scales all gradients by one factor: SGD of half the norm moves half as far', async () => {
    const examples = tinyExamples(2);
    const { gradients } = await (async () => {
      const model = tinyModel();
      const result = await gradientsOf(model, tinyBatches(examples));
      model.dispose();
      return result;
    })();
    const squares = [...gradients.values()].flatMap((values) => [...values]).reduce((sum, x) => sum + x * x, 0);
    const { steps } = await trained(tinyModel(), tinyBatches(examples), { totalSteps: 1, maxGradNorm: 1e9 });
    expect(steps[0].gradNorm).toBeCloseTo(Math.sqrt(squares), 4);
  });
});

describe('one block of everything', () => {
  it.each([
    ['in float32', 'float32', false],
    ['in bfloat16, head tied', 'bfloat16', true],
  ] as const)('that is never left equals AdamW over all parameters, bit for bit: %s', async (_, dtype, tied) => {
    const examples = tinyExamples(8);
    const make = () => tinyModel({ tie_word_embeddings: tied }, dtype);
    const options = { totalSteps: 12, maxGradNorm: 0.5 };
    const adam = await trained(make(), tinyBatches(examples), options);
    const block = await trained(
      make(),
      tinyBatches(examples),
      options,
      (model) =>
        new BlockOptimizer(base, [...model.parameters.values()], {
          blockPrefixList: [tied ? ['model.'] : ['model.', 'lm_head.']],
          switchBlockEvery: 1_000_000,
        }),
    );
    expect(block.losses).toEqual(adam.losses);
    expect(block.weights).toEqual(adam.weights);
    expect(new Set(adam.losses).size).toBe(12);
  });
});

describe('weights at rest in bfloat16', () => {
  const blocks = (model: Llama) =>
    new BlockOptimizer(base, [...model.parameters.values()], { switchBlockEvery: 4, switchMode: 'ascending' });

  it('equal float32 ones bit for bit up to the first switch, and nearly after it', async () => {
    const examples = tinyExamples(8);
    const exact = await trained(tinyModel(), tinyBatches(examples), { totalSteps: 16 }, blocks);
    const rounded = await trained(tinyModel({}, 'bfloat16'), tinyBatches(examples), { totalSteps: 16 }, blocks);
    expect(rounded.losses.slice(0, 4)).toEqual(exact.losses.slice(0, 4));
    expect(rounded.losses[4]).not.toBe(exact.losses[4]);
    // A bfloat16 weight is off by at most 2^-9 of itself.
    rounded.losses.forEach((loss, i) => expect(Math.abs(loss / exact.losses[i] - 1)).toBeLessThan(2 ** -7));
  });
});

describe.each(['float32', 'bfloat16'] as const)('products in %s', (computeDtype) => {
  const source = tinyBatches(tinyExamples(6));

  it.each([
    ['kept from the forward run equal repeated ones', {}, { keptBytes: 0 }],
    ['multiplied out one at a time equal those made where they appear', { fused: false }, { fused: true }],
  ])('%s, bit for bit', async (_, one, other) => {
    for (const atRest of ['bfloat16', 'float32'] as const) {
      const model = tinyModel({}, atRest, { computeDtype });
      const before = liveTensors();
      expect(await gradientsOf(model, source, one)).toEqual(await gradientsOf(model, source, other));
      expect(liveTensors()).toBe(before);
      model.dispose();
    }
  });

  it('have the same bits with the same weights in float32 and in bfloat16', async () => {
    const [model, wide] = (['bfloat16', 'float32'] as const).map((atRest) => tinyModel({}, atRest, { computeDtype }));
    expect(await gradientsOf(wide, source)).toEqual(await gradientsOf(model, source));
    model.dispose();
    wide.dispose();
  });

  it('are the gradients of linear layers as they are; over several batches their sum is float32', async () => {
    const model = tinyModel({}, 'bfloat16', { computeDtype });
    const linear = (name: string) => /proj|lm_head/.test(name);
    const dtypesOf = async (count: number) => {
      const walk = new StageWalk(model);
      const batches = [...tinyBatches(tinyExamples(2 * count)).epochBatches()];
      const micro = batches.map((batch) => createMicroBatch(model, batch));
      const found = new Map<string, string>();
      await walk.gradients(micro, new Set(model.parameters.keys()), ([name, gradient]) => {
        found.set(name, gradient.dtype);
        gradient.dispose();
      });
      micro.forEach(disposeMicroBatch);
      walk.dispose();
      return found;
    };
    for (const [name, dtype] of await dtypesOf(1)) expect(dtype, name).toBe(linear(name) ? computeDtype : 'float32');
    for (const [name, dtype] of await dtypesOf(2)) expect(dtype, name).toBe('float32');
    model.dispose();
  });

  it('give nearly the loss and the gradients of float32', async () => {
    const [model, exact] = [tinyModel({}, 'bfloat16', { computeDtype }), tinyModel({}, 'bfloat16')];
    const [found, expected] = [await gradientsOf(model, source), await gradientsOf(exact, source)];
    expect(Math.abs(found.loss / expected.loss - 1)).toBeLessThan(2 ** -8);
    for (const [name, gradient] of found.gradients) {
      const norm = Math.hypot(...expected.gradients.get(name)!);
      const distance = Math.hypot(...gradient.map((x, i) => x - expected.gradients.get(name)![i]));
      expect(distance / norm, name).toBeLessThan(computeDtype === 'float32' ? 1e-6 : 2 ** -5);
    }
    model.dispose();
    exact.dispose();
  });
});

describe('a head tied to the embedding', () => {
  it("has the sum of the head's and the embedding's gradients, over several batches", async () => {
    const tied = tinyModel({ tie_word_embeddings: true });
    const weights = new Map(
      [...tied.parameters].map(([name, p]) => [name, RawTensor.fromBytes(p.bytes(), p.shape, 'float32')]),
    );
    const embedding = tied.parameters.get('model.embed_tokens.weight')!;
    weights.set('lm_head.weight', RawTensor.fromBytes(embedding.bytes(), embedding.shape, 'float32'));
    const untied = createLlama({ ...tied.config, tie_word_embeddings: false }, weights);
    const examples = tinyExamples(6);
    const [one, two] = [
      await gradientsOf(tied, tinyBatches(examples)),
      await gradientsOf(untied, tinyBatches(examples)),
    ];
    expect(one.loss).toBe(two.loss);
    const [embedded, projected] = ['model.embed_tokens.weight', 'lm_head.weight'].map((name) =>
      two.gradients.get(name)!,
    );
    const sum = embedded.map((x, i) => x + projected[i]);
    expect(largestDifference(one.gradients.get('model.embed_tokens.weight')!, sum)).toBeLessThan(1e-6);
    expect(largestDifference(embedded, new Float32Array(sum.length))).toBeGreaterThan(1e-3);
    expect(largestDifference(projected, new Float32Array(sum.length))).toBeGreaterThan(1e-3);
    tied.dispose();
    untied.dispose();
  });
});
