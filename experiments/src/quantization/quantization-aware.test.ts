import { quantizationAware, quantizeModel, type ModelQuantization } from '@blockwise/adapters';
import { createBatches } from '@blockwise/loaders';
import { openLlama, type Llama } from '@blockwise/model-zoo';
import { adamW } from '@blockwise/optimizers';
import { initTensorFlow, liveTensors } from '@blockwise/tensorflow';
import { evaluateLoss, train } from '@blockwise/training';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { embedded, sharedData } from '../embedded.ts';
import { readText, type TextData } from './text-examples.ts';

const hasData = existsSync(sharedData);
if (!hasData) console.log(`skipping tests on real data: ${sharedData} is missing (set BLOCKWISE_DATA)`);

const packages = new URL('../../../packages/', import.meta.url);
const read = (path: string): unknown => JSON.parse(readFileSync(new URL(path, packages), 'utf8'));
/** 40 steps in transformers with torch's fake quantisation, made by tools/golden/quantized_llama.py; versions inside. */
const { trajectories } = read('adapters/src/golden/quantized-llama.json') as {
  trajectories: {
    name: string;
    weights: ModelQuantization;
    activations: ModelQuantization['activations'] | null;
    learningRate: number;
    losses: number[];
    /** Up to each step, of equal re-runs. */
    noise: number[];
  }[];
};
const { batches } = read('training/src/golden/badam-trajectories.json') as {
  batches: { inputIds: number[][]; labels: number[][] }[];
};

const options = (totalSteps: number, learningRate: number) => ({
  ...({ totalSteps, gradientAccumulationSteps: 1, learningRate, lrSchedulerType: 'constant', warmupSteps: 0 } as const),
  ...{ maxGradNorm: 0, evalSteps: 0, saveSteps: 0 },
});

beforeAll(() => initTensorFlow());

describe.skipIf(!hasData)('quantisation-aware training of stories260K', () => {
  it.each(trajectories)("$name: losses equal transformers' with torch's fake quantisation", async (record) => {
    const before = liveTensors();
    const examples = batches.flatMap(({ inputIds, labels }) =>
      inputIds.map((ids, row) => ({ inputIds: Int32Array.from(ids), labels: Int32Array.from(labels[row]) })),
    );
    const source = createBatches(examples, { batchSize: 2, padId: 0, cutoffLen: examples[0].inputIds.length });
    const { model: stories } = openLlama(join(sharedData, 'models/stories260K'), { dtype: 'float32' });
    const { name, weights, activations, learningRate, noise } = record;
    const model = quantizationAware(stories, { ...weights, activations: activations ?? undefined });
    const optimizer = adamW({ learningRate, weightDecay: 0 })([...model.parameters.values()]);
    const { steps } = await train({
      model,
      optimizer,
      batches: source,
      options: options(record.losses.length, learningRate),
    });
    optimizer.dispose();
    model.dispose();
    expect(liveTensors()).toBe(before);
    const errors = record.losses.map((x, i) => Math.abs(steps[i].loss - x) / x);
    console.log(`${name}: largest relative error ${Math.max(...errors).toExponential(2)}, noise ${noise.at(-1)}`);
    expect(errors.length).toBe(name === '4-bit weights' ? 20 : 40);
    // Strict until a code falls to the other side, which happens in equal re-runs of transformers too.
    errors.forEach((error, i) => expect([i, error < Math.max(1e-4, 10 * noise[i]) || error]).toEqual([i, true]));
  });
});

const int4: ModelQuantization = { bits: 4, symmetric: true, granularity: 'tensor' };
const open = () => openLlama(embedded.model, { dtype: 'float32' }).model;

const heldOut = (model: Llama, data: TextData) => evaluateLoss(model, data.batches(data.validation, 8));

/** Held-out losses after some steps with fake quantisation or without: as trained in float32, and in 4 bits. */
async function lossesAfter(steps: number, aware: boolean, data: TextData): Promise<{ trained: number; int4: number }> {
  const model = open();
  const subject = aware ? quantizationAware(model, int4) : model;
  const optimizer = adamW({ learningRate: 3e-4, weightDecay: 0 })([...model.parameters.values()]);
  await train({
    ...{ model: subject, optimizer, batches: data.batches(data.train, 8), options: options(steps, 3e-4) },
  });
  optimizer.dispose();
  const trained = await heldOut(model, data);
  const quantized = quantizeModel(model, int4);
  const loss = await heldOut(quantized, data);
  quantized.dispose();
  return { trained, int4: loss };
}

it('wins back much of what 4 bits cost a model that was trained as long without it', async () => {
  const data = await readText(embedded.model, embedded.dataset, { count: 1000, length: 128, seed: 1, part: 'answers' });
  const plain = await lossesAfter(60, false, data);
  const aware = await lossesAfter(60, true, data);
  const [lost, left] = [plain.int4 - plain.trained, aware.int4 - plain.trained];
  console.log(`4 bits cost ${lost.toFixed(4)} nats; ${left.toFixed(4)} after quantisation-aware training`);
  expect(lost).toBeGreaterThan(0.02);
  expect(left).toBeLessThan(0.6 * lost);
});
