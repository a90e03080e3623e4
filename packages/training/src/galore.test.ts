import { galore, type GaloreOptions, type Optimizer } from '@blockwise/optimizers';
import { initTensorFlow, liveTensors } from '@blockwise/tensorflow';
import { beforeAll, describe, expect, it } from 'vitest';
import { largestDifference, lossesOf, tinyBatches, tinyExamples, tinyModel, trainOptions, valuesOf } from './tiny-model.test-support.ts'; // prettier-ignore
import { train, type TrainOptions } from './train.ts';

beforeAll(() => initTensorFlow());

interface Way extends GaloreOptions {
  /** Whether the optimizer is given gradients as any other is. */
  whole?: boolean;
}

/** 10 steps with new projections in steps 1, 5 and 9; which shapes each step's updates had. */
async function trained({ whole, ...options }: Way, how: Partial<TrainOptions> = {}) {
  const before = liveTensors();
  const model = tinyModel({ tie_word_embeddings: true });
  const settings = { rank: 2, updateProjGap: 4, scale: 1, learningRate: 1e-2, weightDecay: 0.1, ...options };
  const optimizer: Optimizer = galore(settings)([...model.parameters.values()]);
  const shapes: Map<string, string>[] = [];
  const { beginStep, update } = optimizer;
  optimizer.beginStep = () => (shapes.push(new Map()), beginStep.call(optimizer));
  optimizer.update = (name, gradient) => {
    shapes.at(-1)!.set(name, String(gradient.shape));
    update.call(optimizer, name, gradient);
  };
  if (whole) optimizer.projection = () => undefined;
  const batches = tinyBatches(tinyExamples(16));
  const { steps } = await train({ model, optimizer, batches, options: trainOptions(how) });
  const weights = new Map([...model.parameters.keys()].map((name) => [name, valuesOf(model, name)]));
  optimizer.dispose();
  model.dispose();
  expect(liveTensors()).toBe(before);
  return { losses: lossesOf(steps), weights, shapes };
}

const accumulated = { gradientAccumulationSteps: 2 };
const ways: [string, Way, Partial<TrainOptions>][] = [
  ['the smaller side', { projType: 'std' }, {}],
  ['the larger side', { projType: 'reverse_std' }, accumulated],
  ['the left side', { projType: 'left' }, accumulated],
  ['both sides', { projType: 'full' }, accumulated],
  ['the smaller side, clipped', { projType: 'std' }, { ...accumulated, maxGradNorm: 0.5 }],
  ['the embedding too', { target: () => true }, accumulated],
];

describe('GaLore in the training loop', () => {
  it.each(ways)('trains by projected factors as by gradients: %s', async (_, way, how) => {
    const [one, other] = [await trained(way, how), await trained({ ...way, whole: true }, how)];
    expect(largestDifference(one.losses, other.losses)).toBeLessThan(1e-5);
    for (const [name, values] of one.weights)
      expect(largestDifference(values, other.weights.get(name)!), name).toBeLessThan(1e-4);
    expect(one.losses[9]).toBeLessThan(one.losses[0]);
  });

  it.each([0, 0.5])('is given projections, but for steps with new ones; max_grad_norm %d', async (maxGradNorm) => {
    const { shapes } = await trained({}, { maxGradNorm });
    const [query, up, norm] = ['self_attn.q_proj', 'mlp.up_proj', 'input_layernorm'].map((local) =>
      shapes.map((names) => names.get(`model.layers.1.${local}.weight`)),
    );
    const everyFourth = (whole: string, projected: string) => shapes.map((_, i) => (i % 4 === 0 ? whole : projected));
    expect(query).toEqual(everyFourth('16,16', '16,2'));
    expect(up).toEqual(everyFourth('24,16', '24,2'));
    expect(new Set(norm)).toEqual(new Set(['16']));
  });

  it('is given gradients where a projection would not take fewer multiplications', async () => {
    const { shapes } = await trained({ rank: 8 });
    expect(shapes[1].get('model.layers.1.self_attn.q_proj.weight')).toBe('16,16');
    expect(shapes[1].get('model.layers.1.mlp.up_proj.weight')).toBe('24,8');
  });
});
