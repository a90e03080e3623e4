import { adaLomo, lomo } from '@blockwise/optimizers';
import { initTensorFlow, liveTensors } from '@blockwise/tensorflow';
import { beforeAll, describe, expect, it } from 'vitest';
import { hasData } from './stories-data.test-support.ts';
import { largestRelative, readGolden, storiesSteps } from './stories-run.test-support.ts';
import { lossesOf } from './tiny-model.test-support.ts';

/** 40 steps of the official lomo-optim package on stories260K, made by tools/golden/lomo_trajectories.py; versions inside. */
interface Case {
  name: string;
  optimizer: 'Lomo' | 'AdaLomo';
  options: {
    lr: number;
    clip_grad_norm?: number;
    clip_grad_value?: number;
    weight_decay?: number;
    eps?: [number, number];
    clip_threshold?: number;
    decay_rate?: number;
  };
  warmupSteps: number | null;
  learningRates: number[];
  losses: number[];
  gradientNorms: number[];
  noise: { losses: number };
}
const { cases } = readGolden<{ cases: Case[] }>('lomo-trajectories.json');

function factoryOf({ optimizer, options }: Case) {
  const { weight_decay: weightDecay, eps, clip_threshold: clipThreshold, decay_rate: decayRate } = options;
  return optimizer === 'Lomo' ? lomo({ weightDecay }) : adaLomo({ weightDecay, eps, clipThreshold, decayRate });
}

function run(record: Case) {
  const { lr: learningRate, clip_grad_norm: maxGradNorm = 0, clip_grad_value: clipGradValue } = record.options;
  const schedule =
    record.warmupSteps === null ? {} : { lrSchedulerType: 'cosine' as const, warmupSteps: record.warmupSteps };
  return storiesSteps(factoryOf(record), { learningRate, maxGradNorm, clipGradValue, ...schedule });
}

beforeAll(() => initTensorFlow());

describe.skipIf(!hasData)('LOMO and AdaLomo on stories260K and Alpaca-GPT4', () => {
  it('the golden file has all cases', () => expect(cases.length).toBe(16));

  it.each(cases)("$name: 40 losses equal the official package's", async (record) => {
    const before = liveTensors();
    const steps = await run(record);
    expect(liveTensors()).toBe(before);
    steps.forEach(({ learningRate }, i) => expect(learningRate).toBeCloseTo(record.learningRates[i], 12));
    const tolerance = Math.max(1e-4, 10 * record.noise.losses);
    const error = largestRelative(lossesOf(steps), record.losses);
    console.log(`${record.name}: largest relative error ${error.toExponential(2)}, noise ${record.noise.losses}`);
    expect(error).toBeLessThan(tolerance);
    const norms = steps.map(({ gradNorm }) => gradNorm);
    if (record.gradientNorms.length === 0) expect(norms.every((norm) => norm === null)).toBe(true);
    else expect(largestRelative(norms as number[], record.gradientNorms)).toBeLessThan(10 * tolerance);
  });
});
