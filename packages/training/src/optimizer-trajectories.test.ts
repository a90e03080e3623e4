import type { Llama } from '@blockwise/model-zoo';
import {
  adamMini,
  BlockOptimizerRatio,
  galore,
  type AdamMiniOptions,
  type BlockOptimizerRatioOptions,
  type GaloreOptions,
  type Optimizer,
} from '@blockwise/optimizers';
import { initTensorFlow, liveTensors } from '@blockwise/tensorflow';
import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { hasData } from './stories-data.test-support.ts';
import { goldenBatches, openStories } from './stories-model.test-support.ts';
import { torchRandperm } from './torch-random.test-support.ts';
import { train } from './train.ts';

/** 40 steps of the official packages on stories260K, made by tools/golden/optimizer_trajectories.py; versions inside. */
interface Case {
  name: string;
  optimizer: 'GaLoreAdamW' | 'Adam_mini' | 'BlockOptimizerRatio';
  options: { lr: number } & Record<string, unknown>;
  tiedHead: boolean;
  losses: number[];
  noise: { losses: number };
  /** Of scattered entries: the seed of each parameter's random order, and the sum of the first window's places. */
  masks?: Record<string, { seed: number; sum: number }>;
}
const { cases } = JSON.parse(readFileSync(new URL('golden/optimizer-trajectories.json', import.meta.url), 'utf8')) as {
  cases: Case[];
};

function createOptimizer(model: Llama, record: Case): Optimizer {
  const { lr: learningRate, ...rest } = record.options;
  const options = { learningRate, ...rest };
  const parameters = [...model.parameters.values()];
  if (record.optimizer === 'GaLoreAdamW') return galore(options as GaloreOptions)(parameters);
  if (record.optimizer === 'Adam_mini') return adamMini(options as unknown as AdamMiniOptions)(parameters);
  const masks = record.masks && { masks: officialMasks(record) };
  return new BlockOptimizerRatio(parameters, { ...(options as BlockOptimizerRatioOptions), ...masks });
}

/** The official scattered entries: successive stretches of torch's random order. */
function officialMasks({ masks, options }: Case): BlockOptimizerRatioOptions['masks'] {
  return ({ name, shape }, window) => {
    const n = shape.reduce((product, size) => product * size, 1);
    const count = Math.floor(n * (options.updateRatio as number));
    const { seed, sum } = masks![name];
    const order = torchRandperm(n, seed);
    const places = Int32Array.from({ length: count }, (_, i) => order[(window * count + i) % n]);
    if (window === 0) expect(places.reduce((total, place) => total + place, 0)).toBe(sum);
    return places;
  };
}

async function run(record: Case): Promise<number[]> {
  const model = openStories(record.tiedHead);
  const optimizer = createOptimizer(model, record);
  const { steps } = await train({
    ...{ model, optimizer, batches: goldenBatches() },
    options: {
      ...{ totalSteps: 40, gradientAccumulationSteps: 1, learningRate: record.options.lr, maxGradNorm: 0 },
      ...{ lrSchedulerType: 'constant', warmupSteps: 0, evalSteps: 0, saveSteps: 0 },
    },
  });
  optimizer.dispose();
  model.dispose();
  return steps.map(({ loss }) => loss);
}

/**
 * Steps compared, where they are not all 40. A singular vector's sign is that of its entry of largest magnitude; where two entries are equally
 * large, rounding decides, which over 40 new bases of every matrix happens on some CPUs (with AMX, in step 24).
 */
const stepsCompared: Record<string, number> = { 'galore-every-step': 20 };

const largestRelative = (found: readonly number[], expected: readonly number[]) =>
  Math.max(...expected.map((x, i) => Math.abs(found[i] - x) / Math.abs(x)));

beforeAll(() => initTensorFlow());

describe.skipIf(!hasData)('GaLore, Adam-mini and BlockOptimizerRatio on stories260K and Alpaca-GPT4', () => {
  it('the golden file has all cases', () => expect(cases.length).toBe(20));

  it.each(cases)("$name: losses equal the official package's", async (record) => {
    const before = liveTensors();
    const losses = await run(record);
    expect(liveTensors()).toBe(before);
    const error = largestRelative(losses, record.losses.slice(0, stepsCompared[record.name]));
    console.log(`${record.name}: largest relative error ${error.toExponential(2)}, noise ${record.noise.losses}`);
    expect(error).toBeLessThan(Math.max(1e-4, 10 * record.noise.losses));
  });
});
