import type { Llama } from '@blockwise/model-zoo';
import { BlockOptimizerRatio, galore, type BlockOptimizerRatioOptions, type GaloreOptions, type Optimizer } from '@blockwise/optimizers'; // prettier-ignore
import { initTensorFlow, liveTensors } from '@blockwise/tensorflow';
import { beforeAll, describe, expect, it } from 'vitest';
import { largestDifference, lossesOf, tinyBatches, tinyExamples, tinyModel, trainOptions, valuesOf } from './tiny-model.test-support.ts'; // prettier-ignore
import { train, type TrainOptions } from './train.ts';

beforeAll(() => initTensorFlow());

type Make = (model: Llama) => Optimizer;

/** New projections in steps 1, 5 and 9. */
const galoreOf =
  (options: GaloreOptions = {}): Make =>
  (model) => {
    const settings = { rank: 2, updateProjGap: 4, scale: 1, learningRate: 1e-2, weightDecay: 0.1 };
    return galore({ ...settings, ...options })([...model.parameters.values()]);
  };

/** Other entries every third step; the fourth window goes past the end. */
const ratioOf =
  (options: BlockOptimizerRatioOptions = {}): Make =>
  (model) => {
    const settings = { updateRatio: 0.3, switchEvery: 3, preserveThreshold: 0, learningRate: 1e-2 };
    return new BlockOptimizerRatio([...model.parameters.values()], { ...settings, ...options });
  };

/** 10 steps, and which shapes each step's updates had. With `whole` the optimizer is given gradients as any other is. */
async function trained(make: Make, { whole = false, ...how }: Partial<TrainOptions> & { whole?: boolean } = {}) {
  const before = liveTensors();
  const model = tinyModel({ tie_word_embeddings: true });
  const optimizer = make(model);
  const shapes: Map<string, string>[] = [];
  const { beginStep, update } = optimizer;
  optimizer.beginStep = () => (shapes.push(new Map()), beginStep.call(optimizer));
  optimizer.update = (name, gradient) => {
    shapes.at(-1)!.set(name, String(gradient.shape));
    update.call(optimizer, name, gradient);
  };
  if (whole) optimizer.projection = () => undefined;
  const { steps } = await train({ model, optimizer, batches: tinyBatches(tinyExamples(16)), options: trainOptions(how) }); // prettier-ignore
  const weights = new Map([...model.parameters.keys()].map((name) => [name, valuesOf(model, name)]));
  optimizer.dispose();
  model.dispose();
  expect(liveTensors()).toBe(before);
  const shapesOf = (local: string) => shapes.map((names) => names.get(`model.layers.1.${local}.weight`));
  return { losses: lossesOf(steps), weights, shapesOf };
}

const accumulated = { gradientAccumulationSteps: 2 };
const clipped = { ...accumulated, maxGradNorm: 0.5 };
const everything = { includeEmbedding: true, includeLmHead: true };

describe('an optimizer that needs a projection of gradients', () => {
  it.each<[string, Make, Partial<TrainOptions>]>([
    ['GaLore, the smaller side', galoreOf(), {}],
    ['GaLore, the larger side', galoreOf({ projType: 'reverse_std' }), accumulated],
    ['GaLore, the left side', galoreOf({ projType: 'left' }), accumulated],
    ['GaLore, both sides', galoreOf({ projType: 'full' }), accumulated],
    ['GaLore, clipped', galoreOf(), clipped],
    ['GaLore, of the embedding too', galoreOf({ target: () => true }), accumulated],
    ['Ratio', ratioOf(), {}],
    ['Ratio, several batches', ratioOf(), accumulated],
    ['Ratio, clipped', ratioOf(), clipped],
    ['Ratio, of the embedding too', ratioOf(everything), accumulated],
    ['Ratio, in more than half of the rows', ratioOf({ updateRatio: 0.7 }), accumulated],
  ])('trains by factors as by whole gradients: %s', async (_, make, how) => {
    const [one, other] = [await trained(make, how), await trained(make, { ...how, whole: true })];
    expect(largestDifference(one.losses, other.losses)).toBeLessThan(1e-5);
    for (const [name, values] of one.weights)
      expect(largestDifference(values, other.weights.get(name)!), name).toBeLessThan(1e-4);
    expect(one.losses[9]).toBeLessThan(one.losses[0]);
  });

  it.each([0, 0.5])('GaLore is given it, but for steps with new vectors; max_grad_norm %d', async (maxGradNorm) => {
    const { shapesOf } = await trained(galoreOf(), { maxGradNorm });
    const everyFourth = (whole: string, projected: string) =>
      Array.from({ length: 10 }, (_, i) => (i % 4 === 0 ? whole : projected));
    expect(shapesOf('self_attn.q_proj')).toEqual(everyFourth('16,16', '16,2'));
    expect(shapesOf('mlp.up_proj')).toEqual(everyFourth('24,16', '24,2'));
    expect(new Set(shapesOf('input_layernorm'))).toEqual(new Set(['16']));
  });

  it('GaLore is given gradients where it would not take fewer multiplications', async () => {
    const { shapesOf } = await trained(galoreOf({ rank: 8 }));
    expect(shapesOf('self_attn.q_proj')[1]).toBe('16,16');
    expect(shapesOf('mlp.up_proj')[1]).toBe('24,8');
  });

  it.each([0, 0.5])('Ratio is given the entries of matrices alone; max_grad_norm %d', async (maxGradNorm) => {
    const { shapesOf } = await trained(ratioOf(), { maxGradNorm });
    expect(new Set(shapesOf('self_attn.q_proj'))).toEqual(new Set(['76']));
    expect(new Set(shapesOf('mlp.up_proj'))).toEqual(new Set(['115']));
    expect(new Set(shapesOf('input_layernorm'))).toEqual(new Set(['16']));
  });

  it('Ratio is given gradients where its entries are scattered, or in all rows', async () => {
    expect((await trained(ratioOf({ maskMode: 'scatter' }))).shapesOf('self_attn.q_proj')[0]).toBe('16,16');
    expect((await trained(ratioOf({ updateRatio: 0.97 }))).shapesOf('self_attn.q_proj')[0]).toBe('16,16');
  });
});
