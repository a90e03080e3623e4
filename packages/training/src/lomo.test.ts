import type { Llama } from '@blockwise/model-zoo';
import { adaLomo, adamW, lomo, optimizerGroups, sgd, type OptimizerFactory } from '@blockwise/optimizers';
import { initTensorFlow, liveTensors, RawTensor, tf } from '@blockwise/tensorflow';
import { beforeAll, describe, expect, it } from 'vitest';
import { largestDifference, lossesOf, tinyBatches, tinyExamples, tinyModel, trainOptions, valuesOf } from './tiny-model.test-support.ts'; // prettier-ignore
import { train, type TrainOptions, type TrainState } from './train.ts';

beforeAll(() => initTensorFlow());

type Dtype = Parameters<typeof tinyModel>[1];
const bytesOf = (model: Llama) => new Map([...model.parameters].map(([name, parameter]) => [name, parameter.bytes()]));

async function trained(factory: OptimizerFactory, options: Partial<TrainOptions>, dtype?: Dtype, batchSize = 2) {
  const model = tinyModel({ tie_word_embeddings: true }, dtype);
  const optimizer = factory([...model.parameters.values()]);
  const batches = tinyBatches(tinyExamples(16), { batchSize });
  const { steps, gradientBytes } = await train({ model, optimizer, batches, options: trainOptions(options) });
  const result = { losses: lossesOf(steps), norms: steps.map(({ gradNorm }) => gradNorm), weights: bytesOf(model) };
  const largest = 4 * Math.max(...[...model.parameters.values()].map(({ elements }) => elements));
  optimizer.dispose();
  model.dispose();
  return { ...result, steps, gradientBytes, largest };
}

describe('LOMO in the training loop', () => {
  it('equals SGD bit for bit on float32 weights', async () => {
    const [one, two] = [await trained(lomo(), {}), await trained(sgd(), {})];
    expect(one.losses).toEqual(two.losses);
    expect(one.weights).toEqual(two.weights);
  });

  it('clips by two backward passes just as others do by keeping all gradients, and holds one at a time', async () => {
    const clipped = { maxGradNorm: 0.5, gradientAccumulationSteps: 2 };
    const [twice, once] = [await trained(lomo(), clipped), await trained(sgd(), clipped)];
    expect(twice.norms.every((norm) => norm! > 0.5)).toBe(true);
    expect(twice.norms).toEqual(once.norms);
    expect(twice.losses).toEqual(once.losses);
    expect(twice.weights).toEqual(once.weights);
    expect(twice.gradientBytes).toBe(twice.largest);
    expect(once.gradientBytes).toBeGreaterThan(2 * once.largest);
    // And the limit has an effect.
    expect((await trained(lomo(), { gradientAccumulationSteps: 2 })).weights).not.toEqual(twice.weights);
  });

  it('has one gradient of a matrix alive at a time: the next one is made when its turn comes', async () => {
    /** Tensors alive in each update, where that of another matrix of the same layer came before, less than there. */
    const freed = async (factory: OptimizerFactory) => {
      const model = tinyModel();
      const optimizer = factory([...model.parameters.values()]);
      const seen: { layer: string; live: number }[] = [];
      const update = optimizer.update.bind(optimizer);
      optimizer.update = (name, gradient) => {
        const layer = gradient.shape.length === 2 ? (/layers\.\d+/.exec(name)?.[0] ?? name) : '';
        seen.push({ layer, live: liveTensors() });
        update(name, gradient);
      };
      const options = trainOptions({ totalSteps: 1 });
      await train({ model, optimizer, batches: tinyBatches(tinyExamples(8)), options });
      optimizer.dispose();
      model.dispose();
      return seen.flatMap(({ layer, live }, i) => {
        const before = seen[i - 1];
        return before?.layer && before.layer === layer ? [before.live - live] : [];
      });
    };
    // Two factors become one gradient, and the last gradient is gone; else only the last of nine goes.
    expect(await freed(lomo({ learningRate: 1e-2 }))).toEqual(Array(12).fill(2));
    expect(await freed(sgd({ learningRate: 1e-2 }))).toEqual(Array(12).fill(1));
  });

  it.each([
    ['LOMO', lomo(), 1e-5],
    ['AdaLomo', adaLomo({ eps: [1e-8, 1e-3] }), 1e-4],
  ] as const)('%s: 4 batches of 2 accumulated equal a batch of 8', async (_, factory, tolerance) => {
    const options = { totalSteps: 6, maxGradNorm: 1 };
    const large = await trained(factory, options, 'float32', 8);
    const accumulated = await trained(factory, { ...options, gradientAccumulationSteps: 4 });
    expect(new Set(large.losses).size).toBe(6);
    expect(largestDifference(accumulated.losses, large.losses)).toBeLessThan(tolerance);
  });

  it('moves no weight further than lr x clipGradValue, and some just as far', async () => {
    const before = tinyModel({ tie_word_embeddings: true });
    const options = { totalSteps: 1, learningRate: 1, clipGradValue: 2 ** -10 };
    const { weights } = await trained(lomo(), options);
    const moves = [...weights].map(([name, bytes]) =>
      largestDifference(new Float32Array(bytes.slice().buffer), valuesOf(before, name)),
    );
    expect(Math.max(...moves)).toBe(2 ** -10);
    before.dispose();
  });

  it('trains base weights beside AdamW on others, as each would alone', async () => {
    const model = tinyModel();
    const [base, others] = [[...model.parameters.values()].slice(0, 5), [...model.parameters.values()].slice(5)];
    const optimizer = optimizerGroups([
      { parameters: base, factory: lomo({ learningRate: 1e-2 }) },
      { parameters: others, factory: adamW({ learningRate: 1e-3 }) },
    ]);
    const batches = tinyBatches(tinyExamples(8));
    const { steps } = await train({ model, optimizer, batches, options: trainOptions({ maxGradNorm: 1 }) });
    const losses = lossesOf(steps);
    expect(losses[4]).toBeLessThan(losses[0]);
    expect(optimizer.memory().states).toBe(8 * others.reduce((sum, { elements }) => sum + elements, 0));
    optimizer.dispose();
    model.dispose();
  });
});

describe('loss scaling', () => {
  const scaled = (initScale: number) => lomo({ lossScale: { initScale, scaleWindow: 3 } });

  it('skips steps whose float16 gradients overflow, lowers the scale, and then trains', async () => {
    const { steps, losses } = await trained(scaled(2 ** 20), { totalSteps: 24 }, 'float16', 16);
    const skipped = steps.findIndex((step) => !step.skipped);
    expect(skipped).toBeGreaterThan(1);
    // One batch over and over: without an update the loss stays.
    expect(new Set(losses.slice(0, skipped + 1)).size).toBe(1);
    expect(losses[23]).toBeLessThan(losses[0]);
    steps.forEach(({ gradNorm, skipped }) => expect(gradNorm === null).toBe(skipped ?? false));
    // Three good steps double the scale, until it is too high again.
    expect(steps.slice(skipped).some((step) => step.skipped)).toBe(true);
  });

  it('rounds gradients through float16: the losses stay near those without', async () => {
    const exact = await trained(lomo(), { totalSteps: 5 }, 'float16');
    const rounded = await trained(scaled(2 ** 8), { totalSteps: 5 }, 'float16');
    expect(rounded.losses).not.toEqual(exact.losses);
    expect(largestDifference(rounded.losses, exact.losses)).toBeLessThan(1e-3);
  });
});

describe.each([
  ['LOMO, clipped, stochastic rounding', lomo({ rounding: { mode: 'stochastic', seed: 4 } }), 'bfloat16'],
  ['AdaLomo on float32', adaLomo({ weightDecay: 0.1 }), 'float32'],
  ['AdaLomo on bfloat16', adaLomo(), 'bfloat16'],
  ['LOMO with a loss scale', lomo({ lossScale: { initScale: 2 ** 17, scaleWindow: 2 } }), 'float16'],
] as const)('%s', (_, factory, dtype) => {
  const run = async (until: number, resume?: { state: TrainState; weights: Map<string, Uint8Array> }) => {
    const model = tinyModel({}, dtype);
    resume?.weights.forEach((bytes, name) => {
      const parameter = model.parameters.get(name)!;
      parameter.replace(RawTensor.fromBytes(bytes, parameter.shape, parameter.storageDtype));
    });
    const optimizer = factory([...model.parameters.values()]);
    const interrupt = new AbortController();
    let state: TrainState | undefined;
    const { steps } = await train({
      ...{ model, optimizer, batches: tinyBatches(tinyExamples(9), { shuffle: true, seed: 5 }) },
      options: trainOptions({ totalSteps: 7, gradientAccumulationSteps: 2, maxGradNorm: 0.5, lrSchedulerType: 'cosine' }), // prettier-ignore
      ...(resume ? { resume: structuredClone(resume.state) } : {}),
      signal: interrupt.signal,
      onStep: ({ step }) => void (step === until && interrupt.abort()),
      save: async (now) => void (state = structuredClone(now)),
    });
    const weights = bytesOf(model);
    optimizer.dispose();
    model.dispose();
    return { steps, losses: lossesOf(steps), state: state!, weights };
  };

  it('interrupted and resumed gives the losses and weights of a run that was not', async () => {
    const before = [liveTensors(), tf.memory().numTensors];
    const whole = await run(0);
    expect(new Set(whole.losses).size).toBe(7);
    for (const until of [1, 4]) {
      const resumed = await run(0, await run(until));
      expect(resumed.losses).toEqual(whole.losses);
      expect(resumed.weights).toEqual(whole.weights);
    }
    if (dtype === 'float16') expect(new Set(whole.steps.map(({ skipped }) => skipped))).toEqual(new Set([true, undefined])); // prettier-ignore
    expect([liveTensors(), tf.memory().numTensors]).toEqual(before);
  });
});
