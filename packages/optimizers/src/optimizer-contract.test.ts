import { UserError } from '@blockwise/errors';
import { cast, initTensorFlow, liveTensors, Parameter, RawTensor, tf, toRaw } from '@blockwise/tensorflow';
import { beforeAll, describe, expect, test } from 'vitest';
import {
  adam,
  adam8bit,
  adaLomo,
  adamMini,
  adamW,
  adamW8bit,
  BlockOptimizer,
  BlockOptimizerRatio,
  galore,
  lomo,
  optimizerGroups,
  sgd,
  type BlockOptimizerOptions,
  type BlockOptimizerRatioOptions,
  type OptimizerFactory,
  type OptimizerState,
} from './index.ts';
import { noise, smallNames, smallParameters, smallShape, takeSteps } from './small-parameters.test-support.ts';

/** What every optimizer has to keep. A new one is one line here. */
const inBlocks =
  (base: OptimizerFactory, options: BlockOptimizerOptions): OptimizerFactory =>
  (parameters) =>
    new BlockOptimizer(base, parameters, { switchBlockEvery: 5, seed: 5, ...options });

const inPart =
  (options: BlockOptimizerRatioOptions): OptimizerFactory =>
  (parameters) =>
    new BlockOptimizerRatio(parameters, { updateRatio: 0.3, switchEvery: 5, preserveThreshold: 0, ...options });

const optimizers: Record<string, OptimizerFactory> = {
  AdamW: adamW({ weightDecay: 0.1 }),
  Adam: adam({ weightDecay: 0.1 }),
  AdamW8bit: adamW8bit({ weightDecay: 0.1, min8bitSize: 0 }),
  'Adam8bit of small parameters': adam8bit(),
  SGD: sgd({ weightDecay: 0.1 }),
  'SGD with momentum': sgd({ momentum: 0.9, dampening: 0.2 }),
  Galore: galore({ rank: 2, updateProjGap: 7, weightDecay: 0.1 }),
  'Galore, both sides, transient masters': galore({
    ...{ updateProjGap: 7, projType: 'full' },
    ...{ masters: 'transient', rounding: { mode: 'stochastic', seed: 3 } },
  }),
  'Adam-mini': adamMini({ dim: 4, nHeads: 2, weightDecay: 0.1 }),
  'BlockOptimizerRatio, adjacent': inPart({ includeEmbedding: true, includeLmHead: true }),
  'BlockOptimizerRatio, scatter': inPart({ maskMode: 'scatter' }),
  'BlockOptimizerRatio, scatter, masks of their own': inPart({
    ...{ maskMode: 'scatter', keepMask: false, paramUpdateRatios: { q_proj: 1, norm: 0.5 } },
    rounding: { mode: 'stochastic', seed: 3 },
  }),
  'BlockOptimizerRatio, transient masters': inPart({
    ...{ masters: 'transient', rounding: { mode: 'stochastic', seed: 3 } },
  }),
  LOMO: lomo({ weightDecay: 0.1 }),
  'LOMO, stochastic rounding': lomo({ rounding: { mode: 'stochastic', seed: 3 } }),
  AdaLomo: adaLomo({ weightDecay: 0.1 }),
  'groups of AdamW and SGD': (parameters) =>
    optimizerGroups([
      { parameters: parameters.slice(0, 4), factory: adamW() },
      { parameters: parameters.slice(4), factory: sgd({ momentum: 0.9 }) },
    ]),
  'BlockOptimizer of AdaLomo': inBlocks(adaLomo(), {}),
  'BlockOptimizer of AdamW': inBlocks(adamW(), {}),
  'BlockOptimizer of SGD': inBlocks(sgd({ momentum: 0.9, nesterov: true }), { switchMode: 'descending' }),
  'BlockOptimizer, all options': inBlocks(adamW(), {
    ...{ includeEmbedding: true, includeLmHead: true, activeModules: ['model.norm.'] },
    rounding: { mode: 'stochastic', seed: 3 },
  }),
  'BlockOptimizer, compat official': inBlocks(adamW(), { compat: 'official', activeModules: ['lm_head.'] }),
};

beforeAll(() => initTensorFlow());

const contents = (parameters: Parameter[]) =>
  parameters.map((parameter) => Buffer.from(parameter.bytes()).toString('hex'));

/** As a checkpoint would do it: scalars through JSON. */
const written = ({ scalars, tensors }: OptimizerState): OptimizerState => ({
  scalars: JSON.parse(JSON.stringify(scalars)),
  tensors,
});

describe.each(Object.entries(optimizers))('%s', (name, make) => {
  test('a run restored at step 17 equals the uninterrupted one bit for bit at step 40', () => {
    const whole = smallParameters();
    const uninterrupted = make(whole);
    takeSteps(uninterrupted, 0, 40);

    const first = smallParameters();
    const interrupted = make(first);
    takeSteps(interrupted, 0, 17);
    const state = written(interrupted.state());
    const weights = first.map((parameter) => parameter.bytes());
    const second = smallParameters();
    second.forEach((p, i) => p.replace(RawTensor.fromBytes(weights[i], smallShape, 'bfloat16')));
    const resumed = make(second);
    resumed.restore(state);
    expect(resumed.trainable).toEqual(interrupted.trainable);
    expect(resumed.state()).toEqual(interrupted.state());
    // A copy: what happens later does not reach it.
    takeSteps(interrupted, 17, 20);
    takeSteps(resumed, 17, 40);

    expect(contents(second)).toEqual(contents(whole));
    expect(resumed.state()).toEqual(uninterrupted.state());
    for (const optimizer of [uninterrupted, interrupted, resumed]) optimizer.dispose();
    [...whole, ...first, ...second].forEach((parameter) => parameter.dispose());
  });

  test('changes every trained parameter and no other', () => {
    const parameters = smallParameters();
    const optimizer = make(parameters);
    const before = contents(parameters);
    const trained = optimizer.trainable;
    expect(trained.size).toBeGreaterThan(0);
    takeSteps(optimizer, 0, 1);
    contents(parameters).forEach((now, i) => expect(now !== before[i], smallNames[i]).toBe(trained.has(smallNames[i])));
    optimizer.dispose();
    parameters.forEach((parameter) => parameter.dispose());
  });

  test('a bfloat16 gradient does what its values in float32 do', () => {
    const [one, other] = [true, false].map((isHalf) => {
      const parameters = smallParameters();
      const optimizer = make(parameters);
      for (let step = 1; step <= 8; step++) {
        optimizer.beginStep();
        for (const name of optimizer.trainable) {
          const exact = tf.tensor(noise(name, step), smallShape);
          const half = toRaw(exact, 'bfloat16');
          const gradient = isHalf ? half : cast(half);
          optimizer.update(name, gradient);
          for (const x of new Set([exact, half, gradient])) x.dispose();
        }
        optimizer.endStep();
      }
      const found = contents(parameters);
      optimizer.dispose();
      parameters.forEach((parameter) => parameter.dispose());
      return found;
    });
    expect(one).toEqual(other);
  });

  test('parameters that are codes of quantised weights are refused', () => {
    const names = smallNames.slice(1);
    const codes = names.map((name) => new Parameter(name, RawTensor.fromBytes(new Uint8Array(12), smallShape, 'int8')));
    const [first] = codes;
    expect(() => make(codes)).toThrow(UserError);
    expect(() => make(codes)).toThrow(/\.weight and \d+ more is stored as int8, expected floats/);
    expect(first.dtype).toBe('int8');
    codes.forEach((parameter) => parameter.dispose());
  });

  test('a learning rate of 0 changes nothing', () => {
    const parameters = smallParameters();
    const optimizer = make(parameters);
    const before = contents(parameters);
    optimizer.learningRate = 0;
    const gradient = tf.fill(smallShape, 1);
    optimizer.beginStep();
    for (const name of optimizer.trainable) optimizer.update(name, gradient);
    optimizer.endStep();
    expect(contents(parameters)).toEqual(before);
    gradient.dispose();
    optimizer.dispose();
    parameters.forEach((parameter) => parameter.dispose());
  });

  test('80 steps leave no tensor behind and hold the memory that memory() tells', () => {
    const nothing = liveTensors();
    const jsNothing = tf.memory().numTensors;
    const parameters = smallParameters();
    const optimizer = make(parameters);
    takeSteps(optimizer, 0, 20);
    const [live, js] = [liveTensors(), tf.memory().numTensors];
    // 80 - 20 steps are a multiple of K: the same place in a block's turn.
    takeSteps(optimizer, 20, 80);
    expect([liveTensors(), tf.memory().numTensors]).toEqual([live, js]);
    const trained = parameters.filter((parameter) => parameter.master);
    // What is fused keeps no masters of 16-bit weights; BlockOptimizerRatio keeps those of its masked entries, not the parameters.
    const restful = optimizer.fused || optimizer instanceof BlockOptimizerRatio || name.includes('transient');
    expect(trained.length).toBe(restful ? 0 : optimizer.trainable.size);
    if (!(optimizer instanceof BlockOptimizerRatio))
      expect(optimizer.memory().masters).toBe(trained.reduce((sum, { master }) => sum + master!.byteLength, 0));
    const stateBytes = [...optimizer.state().tensors].reduce((sum, [, { bytes }]) => sum + bytes.byteLength, 0);
    const { masters, states } = optimizer.memory();
    expect(masters + states).toBe(stateBytes);
    optimizer.dispose();
    expect(optimizer.memory().states).toBe(0);
    parameters.forEach((parameter) => parameter.dispose());
    expect(liveTensors()).toBe(nothing);
    expect(tf.memory().numTensors).toBe(jsNothing);
  });

  test('an update of a name that it does not train, twice in a step, or of another shape, is a bug of the caller', () => {
    const parameters = smallParameters();
    const optimizer = make(parameters);
    const gradient = tf.fill(smallShape, 1);
    const wrong = tf.fill([12], 1);
    const [first] = optimizer.trainable;
    optimizer.beginStep();
    optimizer.update(first, gradient);
    expect(() => optimizer.update(first, gradient)).toThrow(`internal: ${first} is updated twice in one step`);
    expect(() => optimizer.update('x', gradient)).toThrow(
      'internal: x is not a parameter that this optimizer trains now',
    );
    expect(() => optimizer.update(first, wrong)).toThrow(
      `internal: ${first} of shape [4,3] got a gradient of shape [12]`,
    );
    gradient.dispose();
    wrong.dispose();
    optimizer.dispose();
    parameters.forEach((parameter) => parameter.dispose());
  });
});

test('a state of other parameters, of another rule or with torn tensors is refused, all at once', () => {
  const parameters = smallParameters();
  const optimizer = adamW()(parameters);
  takeSteps(optimizer, 0, 1);
  const { scalars, tensors } = optimizer.state();
  const [first, second, third] = smallNames;
  tensors.delete(`${first}.exp_avg`);
  tensors.set(`${second}.master`, { dtype: 'float32', shape: [3, 4], bytes: new Uint8Array(48) });
  tensors.set(`${third}.exp_avg_sq`, { dtype: 'float32', shape: smallShape, bytes: new Uint8Array(47) });
  scalars.learningRate = 'fast';
  scalars.steps = { ...(scalars.steps as object), x: 1.5 };
  let message = '';
  try {
    optimizer.restore({ scalars, tensors });
  } catch (error) {
    expect((error as Error).name).toBe('UserError');
    message = (error as Error).message;
  }
  expect(message.split('\n  - ')).toEqual([
    'the optimizer state does not fit this run: 6 problems',
    'x has a step count, but is not trained here',
    'the step count of x is 1.5, not a positive integer',
    `${first}.exp_avg is missing`,
    `${second}.master has shape [3,4], expected [4,3]`,
    `${third}.exp_avg_sq has 47 bytes of float32, which is not float32[4,3]`,
    'learningRate is "fast", not a number',
  ]);
  expect(() => optimizer.restore({ scalars: {}, tensors })).toThrow('it has no step counts');
  optimizer.dispose();
  expect(() => adamW()([parameters[0], parameters[0]])).toThrow(`internal: two parameters are called ${first}`);
  parameters.forEach((parameter) => parameter.dispose());
});

test.each([
  [() => adamW({ betas: [1, -1], eps: -1 }), "AdamW's options: 3 problems\n  - eps is -1, expected a number of at least 0\n  - betas[0] is 1, expected a number in [0, 1)\n  - betas[1] is -1, expected a number in [0, 1)"], // prettier-ignore
  [() => adam({ weightDecay: NaN }), "Adam's options: weightDecay is NaN, expected a number of at least 0"],
  [() => adamW8bit({ eps: -1, min8bitSize: -1 }), "AdamW8bit's options: 2 problems\n  - eps is -1, expected a number of at least 0\n  - min8bitSize is -1, expected a number of at least 0"], // prettier-ignore
  [() => galore({ rank: 0, scale: -1, projType: 'lef' as 'left' }), "GaLore's options: 3 problems\n  - scale is -1, expected a number of at least 0\n  - rank is 0, expected an integer of at least 1\n  - projType is lef (did you mean left?): expected std, reverse_std, left, right, full"], // prettier-ignore
  [() => adamMini({ dim: 10, nHeads: 4, eps: -1 }), "Adam-mini's options: 2 problems\n  - eps is -1, expected a number of at least 0\n  - headDim is 2.5, expected an integer of at least 1"], // prettier-ignore
  [() => new BlockOptimizerRatio([], { updateRatio: 0, switchEvery: 0, paramUpdateRatios: { x: 2 }, maskMode: 'scater' as 'scatter', betas: [1, 0] }), 'BlockOptimizerRatio\'s options: 6 problems\n  - betas[0] is 1, expected a number in [0, 1)\n  - updateRatio is 0, expected a number above 0 and at most 1\n  - paramUpdateRatios["x"] is 2, expected a number above 0 and at most 1\n  - paramUpdateRatios: no parameter has "x" in its name\n  - switchEvery is 0, expected an integer of at least 1\n  - maskMode is scater (did you mean scatter?): expected adjacent or scatter'], // prettier-ignore
  [() => sgd({ learningRate: -1 }), "SGD's options: learningRate is -1, expected a number of at least 0"],
  [() => lomo({ learningRate: NaN, weightDecay: -1 }), "LOMO's options: 2 problems\n  - learningRate is NaN, expected a number of at least 0\n  - weightDecay is -1, expected a number of at least 0"], // prettier-ignore
  [() => adaLomo({ eps: [-1, 0], clipThreshold: 0, decayRate: 0.8 }), "AdaLomo's options: 3 problems\n  - eps[0] is -1, expected a number of at least 0\n  - clipThreshold is 0, expected a positive number\n  - decayRate is 0.8, expected a number of at most 0"], // prettier-ignore
  [() => sgd({ nesterov: true, dampening: NaN }), "SGD's options: 3 problems\n  - dampening is NaN, expected a number\n  - nesterov needs momentum, which is 0\n  - nesterov allows no dampening, which is NaN"], // prettier-ignore
])('options out of range are refused by name: %#', (make, message) => {
  expect(make).toThrow(new UserError(message));
});

test('beta1 of 0.999 follows the formula in double: 1 - beta is not left to float32', () => {
  const parameters = smallParameters('float32', ['p']);
  const optimizer = adam({ betas: [0.999, 0.9999], learningRate: 0.01 })(parameters);
  const expected = [...new Float32Array(parameters[0].bytes().buffer)];
  const m = expected.map(() => 0);
  const v = expected.map(() => 0);
  for (let t = 1; t <= 5; t++) {
    const gradient = tf.fill(smallShape, t - 2.5);
    optimizer.beginStep();
    optimizer.update('p', gradient);
    gradient.dispose();
    expected.forEach((_, i) => {
      m[i] = 0.999 * m[i] + 0.001 * (t - 2.5);
      v[i] = 0.9999 * v[i] + 0.0001 * (t - 2.5) ** 2;
      expected[i] -= (0.01 * m[i]) / (1 - 0.999 ** t) / (Math.sqrt(v[i] / (1 - 0.9999 ** t)) + 1e-8);
    });
  }
  // Float32 rounding of values up to 1 over five steps; an uncompensated 1 - beta would be off by 5e-7 a step.
  new Float32Array(parameters[0].bytes().buffer).forEach((x, i) =>
    expect(Math.abs(x - expected[i])).toBeLessThan(2e-7),
  );
  optimizer.dispose();
  parameters[0].dispose();
});
