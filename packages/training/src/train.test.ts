import { adamW, BlockOptimizer, isNormOrBias, lomo, sgd, type OptimizerFactory } from '@blockwise/optimizers';
import { initTensorFlow, liveTensors, RawTensor, readMemory, tf } from '@blockwise/tensorflow';
import { beforeAll, describe, expect, it } from 'vitest';
import { tinyBatches, tinyExamples, tinyModel, trainOptions, valuesOf } from './tiny-model.test-support.ts';
import { evaluateLoss, stepsPerEpoch, train, type TrainState } from './train.ts';

beforeAll(() => initTensorFlow());

describe('train', () => {
  it('leaks no tensor and no memory over 1,000 steps of switching, accumulating, clipping and evaluating', async () => {
    const before = { live: liveTensors(), tfjs: tf.memory().numTensors };
    const model = tinyModel({}, 'bfloat16');
    const parameters = [...model.parameters.values()];
    const base = adamW({ learningRate: 1e-3, weightDecay: 0.01, noDecay: isNormOrBias });
    const optimizer = new BlockOptimizer(base, parameters, { switchBlockEvery: 10, switchMode: 'ascending' });
    const seen = new Map<number, { live: number; tfjs: number; anonymous: number }>();
    const result = await train({
      model,
      optimizer,
      batches: tinyBatches(tinyExamples(24), { shuffle: true }),
      validation: tinyBatches(tinyExamples(6, 3)),
      options: trainOptions({ totalSteps: 1000, gradientAccumulationSteps: 2, maxGradNorm: 0.1, evalSteps: 50 }),
      onStep: ({ step }) => {
        const { anonymous } = readMemory();
        if (step % 100 === 0)
          seen.set(step, { live: liveTensors(), tfjs: tf.memory().numTensors, anonymous: anonymous! });
      },
    });
    const [early, late] = [seen.get(100)!, seen.get(1000)!];
    expect([late.live, late.tfjs]).toEqual([early.live, early.tfjs]);
    console.log(
      `1,000 steps: ${late.live} tensors, anonymous memory ${Math.round((late.anonymous - early.anonymous) / 1e6)} MB more than at step 100`,
    );
    expect(late.anonymous - early.anonymous).toBeLessThan(40e6);
    expect(result.compiledVariants).toBeLessThan(60);
    optimizer.dispose();
    model.dispose();
    expect({ live: liveTensors(), tfjs: tf.memory().numTensors }).toEqual(before);
  });

  it('trains each block for K steps, in order, and leaves the others bit for bit', async () => {
    const model = tinyModel();
    const name = (layer: number) => `model.layers.${layer}.mlp.up_proj.weight`;
    const optimizer = new BlockOptimizer(adamW({ learningRate: 1e-2 }), [...model.parameters.values()], {
      switchBlockEvery: 3,
      switchMode: 'descending',
    });
    const initial = [0, 1].map((layer) => valuesOf(model, name(layer)));
    const after: boolean[][] = [];
    const { steps, interrupted } = await train({
      model,
      optimizer,
      batches: tinyBatches(tinyExamples(8)),
      options: trainOptions({ totalSteps: 6 }),
      onStep: () =>
        void after.push([0, 1].map((layer) => valuesOf(model, name(layer)).join() === initial[layer].join())),
    });
    expect(steps.map(({ block }) => block)).toEqual([1, 1, 1, 0, 0, 0]);
    expect(after).toEqual([...Array<boolean[]>(3).fill([true, false]), ...Array<boolean[]>(3).fill([false, false])]);
    expect(interrupted).toBe(false);
    optimizer.dispose();
    model.dispose();
  });

  it('evaluates before the first step, when due and after the last; saves when due but not at the end', async () => {
    const model = tinyModel();
    const optimizer = sgd({ learningRate: 1e-2 })([...model.parameters.values()]);
    const validation = tinyBatches(tinyExamples(5, 3));
    const untrained = await evaluateLoss(model, validation);
    const events: string[] = [];
    const result = await train({
      model,
      optimizer,
      validation,
      batches: tinyBatches(tinyExamples(8)),
      options: trainOptions({ totalSteps: 6, evalSteps: 2, saveSteps: 3 }),
      onStep: ({ step }) => void events.push(`step ${step}`),
      onValidation: ({ step }) => void events.push(`validation ${step}`),
      save: async ({ step }) => void events.push(`save ${step}`),
    });
    expect(events.join(', ')).toBe(
      'validation 0, step 1, step 2, validation 2, step 3, save 3, step 4, validation 4, step 5, step 6, validation 6',
    );
    expect(result.validation[0].loss).toBe(untrained);
    expect(await evaluateLoss(model, validation)).toBe(result.validation[3].loss);
    optimizer.dispose();
    model.dispose();
  });

  it('interrupted in any step and resumed gives the losses and weights of a run that was not', async () => {
    const run = async (until: number, resume?: { state: TrainState; weights: Map<string, Uint8Array> }) => {
      const model = tinyModel({}, 'bfloat16');
      resume?.weights.forEach((bytes, name) => {
        const parameter = model.parameters.get(name)!;
        parameter.replace(RawTensor.fromBytes(bytes, parameter.shape, parameter.storageDtype));
      });
      const optimizer = new BlockOptimizer(adamW({ learningRate: 1e-2 }), [...model.parameters.values()], {
        ...{ switchBlockEvery: 2, switchMode: 'random', seed: 3, rounding: { mode: 'stochastic', seed: 4 } },
      });
      const interrupt = new AbortController();
      let state: TrainState | undefined;
      const { steps } = await train({
        model,
        optimizer,
        batches: tinyBatches(tinyExamples(9), { shuffle: true, seed: 5 }),
        options: trainOptions({ totalSteps: 7, gradientAccumulationSteps: 2, maxGradNorm: 0.5, warmupSteps: 2 }),
        ...(resume ? { resume: structuredClone(resume.state) } : {}),
        signal: interrupt.signal,
        onStep: ({ step }) => void (step === until && interrupt.abort()),
        save: async (now) => void (state = structuredClone(now)),
      });
      const weights = new Map([...model.parameters].map(([name, parameter]) => [name, parameter.bytes()]));
      optimizer.dispose();
      model.dispose();
      return { losses: steps.map(({ loss }) => loss), state, weights };
    };
    const whole = await run(0);
    expect(whole.state).toBeUndefined();
    for (let until = 1; until <= 6; until++) {
      const { state, weights } = await run(until);
      expect(state!.step).toBe(until);
      const resumed = await run(0, { state: state!, weights });
      expect(resumed.losses).toEqual(whole.losses);
      expect(resumed.weights).toEqual(whole.weights);
    }
  });

  it('refuses to save weights that an update left without finite values, as a checkpoint or at the end', async () => {
    for (const [totalSteps, saveSteps] of [
      [1, 0],
      [9, 1],
    ]) {
      const model = tinyModel();
      // Tokens that the batch does not hold have no gradient: 0 / 0.
      const optimizer = adamW({ learningRate: 1e-2, betas: [0.9, 0], eps: 0 })([...model.parameters.values()]);
      const saved: number[] = [];
      const training = train({
        model,
        optimizer,
        batches: tinyBatches(tinyExamples(8)),
        options: trainOptions({ totalSteps, saveSteps }),
        save: async ({ step }) => void saved.push(step),
      });
      await expect(training).rejects.toThrow(
        /^the update of step 1 left values in .* that are not finite: training stopped/,
      );
      expect(saved).toEqual([]);
      optimizer.dispose();
      model.dispose();
    }
  });

  it('refuses to save such weights where the interruption comes while they are evaluated, which may not see them', async () => {
    const model = tinyModel();
    const optimizer = adamW({ learningRate: 1e-2, betas: [0.9, 0], eps: 0 })([...model.parameters.values()]);
    // As long as rows are, and each token predicts another somewhere: only rows of the embedding that nobody looks up become 0 / 0.
    const inputIds = Int32Array.from({ length: 12 }, (_, i) => i % 3);
    const examples = [inputIds, inputIds].map((inputIds) => ({ inputIds, labels: inputIds }));
    const interrupt = new AbortController();
    const saved: number[] = [];
    const evaluated: number[] = [];
    const training = train({
      model,
      optimizer,
      batches: tinyBatches(examples),
      validation: tinyBatches(examples),
      options: trainOptions({ totalSteps: 9, evalSteps: 1 }),
      signal: interrupt.signal,
      onValidation: ({ step, loss }) => {
        evaluated.push(loss);
        if (step === 1) interrupt.abort();
      },
      save: async ({ step }) => void saved.push(step),
    });
    await expect(training).rejects.toThrow(/^the update of step 1 left values in model\.embed_tokens\.weight/);
    expect(evaluated.map(Number.isFinite)).toEqual([true, true]);
    expect(saved).toEqual([]);
    optimizer.dispose();
    model.dispose();
  });

  it('refuses gradients whose norm is not finite, and updates nothing with them', async () => {
    const model = tinyModel();
    // Logits near 1, but hidden states of 1e30, whose squares overflow.
    const set = (name: string, value: number) => {
      const { shape } = model.parameters.get(name)!;
      const size = shape.reduce((product, n) => product * n, 1);
      const bytes = new Uint8Array(Float32Array.from({ length: size }, (_, i) => (i % 2 ? value : -value)).buffer);
      model.parameters.get(name)!.replace(RawTensor.fromBytes(bytes, shape, 'float32'));
    };
    set('model.norm.weight', 1e30);
    set('lm_head.weight', 1e-30);
    const optimizer = sgd({ learningRate: 1e-2 })([...model.parameters.values()]);
    const before = valuesOf(model, 'model.embed_tokens.weight');
    const saved: number[] = [];
    const training = train({
      model,
      optimizer,
      batches: tinyBatches(tinyExamples(8)),
      options: trainOptions({ maxGradNorm: 1, saveSteps: 1 }),
      save: async ({ step }) => void saved.push(step),
    });
    await expect(training).rejects.toMatchObject({
      name: 'UserError',
      message: expect.stringMatching(
        /^the norm of the gradients became Infinity: training stopped\. Begin again with a lower/,
      ) as string,
    });
    expect(saved).toEqual([]);
    expect(valuesOf(model, 'model.embed_tokens.weight')).toEqual(before);
    optimizer.dispose();
    model.dispose();
  });

  it.each([0, 1])(
    'frees all that a step holds which ends in a loss that is not finite, max_grad_norm %d',
    async (maxGradNorm) => {
      const before = liveTensors();
      const model = tinyModel();
      const optimizer = sgd({ learningRate: 1e30 })([...model.parameters.values()]);
      const options = trainOptions({ learningRate: 1e30, maxGradNorm, gradientAccumulationSteps: 2 });
      const training = train({ model, optimizer, batches: tinyBatches(tinyExamples(16)), options });
      await expect(training).rejects.toThrow(/^the (loss|norm of the gradients) became/);
      optimizer.dispose();
      model.dispose();
      expect(liveTensors()).toBe(before);
    },
  );

  it('keeps the activations of one micro-batch at a time where the gradients of a block take less, of all for LOMO', async () => {
    const activationsOf = async (factory: OptimizerFactory, gradientAccumulationSteps: number) => {
      const model = tinyModel();
      const optimizer = new BlockOptimizer(factory, [...model.parameters.values()], { switchMode: 'fixed' });
      // Equal lengths: each micro-batch leaves as much as any other.
      const examples = tinyExamples(32).map(({ inputIds }) => {
        const ids = Int32Array.from({ length: 12 }, (_, i) => inputIds[i % inputIds.length]);
        return { inputIds: ids, labels: ids };
      });
      const options = trainOptions({ totalSteps: 2, gradientAccumulationSteps });
      const { activationBytes } = await train({
        model,
        optimizer,
        batches: tinyBatches(examples, { batchSize: 8 }),
        options,
      });
      optimizer.dispose();
      model.dispose();
      return activationBytes;
    };
    const [one, four] = [await activationsOf(sgd(), 1), await activationsOf(sgd(), 4)];
    expect(four).toBe(one);
    expect(await activationsOf(lomo(), 4)).toBe(4 * one);
  });

  it('refuses data without labels: batches before an update, validation without blaming the model', async () => {
    const model = tinyModel();
    const optimizer = sgd()([...model.parameters.values()]);
    const examples = tinyExamples(4).map(({ inputIds }) => ({ inputIds, labels: inputIds.map(() => -100) }));
    const training = train({ model, optimizer, batches: tinyBatches(examples), options: trainOptions() });
    await expect(training).rejects.toThrow('the batch has no label to predict');
    await expect(evaluateLoss(model, tinyBatches(examples))).rejects.toThrow('the validation data has no label');
    optimizer.dispose();
    model.dispose();
  });

  it('says that a model is damaged whose loss is not a number before any step', async () => {
    const model = tinyModel();
    const { shape } = model.parameters.get('model.norm.weight')!;
    const bytes = new Uint8Array(new Float32Array(shape[0]).fill(NaN).buffer);
    model.parameters.get('model.norm.weight')!.replace(RawTensor.fromBytes(bytes, shape, 'float32'));
    await expect(evaluateLoss(model, tinyBatches(tinyExamples(4)))).rejects.toMatchObject({
      name: 'UserError',
      message: expect.stringMatching(
        /^the loss of the model as it was given is NaN: its weights are damaged/,
      ) as string,
    });
    model.dispose();
  });
});

it('an epoch has as many steps as batches divided by accumulation, rounded up', () => {
  expect([stepsPerEpoch(16, 1), stepsPerEpoch(16, 3), stepsPerEpoch(1, 8)]).toEqual([16, 6, 1]);
});
