import { createBatches } from '@blockwise/loaders';
import { openLlama } from '@blockwise/model-zoo';
import type { OptimizerFactory } from '@blockwise/optimizers';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { dataFolder } from './stories-data.test-support.ts';
import { lossesOf, trainOptions } from './tiny-model.test-support.ts';
import { train, type TrainOptions } from './train.ts';

/** stories260K trained for 40 steps on the batches of tools/golden/badam_trajectories.py, as all recorded trajectories are. */

/** A file of golden/. */
export const readGolden = <T>(name: string) =>
  JSON.parse(readFileSync(new URL(`golden/${name}`, import.meta.url), 'utf8')) as T;

/** The official rows, padding included: two to a batch, in their order. */
function goldenBatches() {
  const { batches } = readGolden<{ batches: { inputIds: number[][]; labels: number[][] }[] }>(
    'badam-trajectories.json',
  );
  const examples = batches.flatMap(({ inputIds, labels }) =>
    inputIds.map((ids, row) => ({ inputIds: Int32Array.from(ids), labels: Int32Array.from(labels[row]) })),
  );
  return createBatches(examples, { batchSize: 2, padId: 0, cutoffLen: examples[0].inputIds.length });
}

/** The 40 steps of float32 training of all weights; unless `options` say otherwise, without clipping, at a constant learning rate. */
export async function storiesSteps(factory: OptimizerFactory, options: Partial<TrainOptions>) {
  const { model } = openLlama(join(dataFolder, 'models/stories260K'), { dtype: 'float32' });
  const optimizer = factory([...model.parameters.values()]);
  const batches = goldenBatches();
  const { steps } = await train({ model, optimizer, batches, options: trainOptions({ totalSteps: 40, ...options }) });
  optimizer.dispose();
  model.dispose();
  return steps;
}

export const storiesLosses = async (factory: OptimizerFactory, learningRate: number): Promise<number[]> =>
  lossesOf(await storiesSteps(factory, { learningRate }));

/** The largest difference of two lists of losses, relative to the expected ones. */
export const largestRelative = (found: readonly number[], expected: readonly number[]) =>
  Math.max(...expected.map((x, i) => Math.abs(found[i] - x) / Math.abs(x)));
