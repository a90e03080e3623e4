import { initTensorFlow, liveTensors, tf, type Parameter } from '@blockwise/tensorflow';
import { beforeAll, describe, expect, test } from 'vitest';
import { adaLomo, adamW, lomo, optimizerGroups, sgd, type OptimizerFactory } from './index.ts';
import { smallNames, smallParameters, smallShape, takeSteps } from './small-parameters.test-support.ts';

beforeAll(() => initTensorFlow());

const contents = (parameters: readonly Parameter[]) =>
  parameters.map((parameter) => Buffer.from(parameter.bytes()).toString('hex'));

/** The bytes of `parameters` after `steps` steps. */
function trained(make: OptimizerFactory, steps: number, parameters = smallParameters('float32')): string[] {
  const optimizer = make(parameters);
  takeSteps(optimizer, 0, steps);
  const result = contents(parameters);
  optimizer.dispose();
  parameters.forEach((parameter) => parameter.dispose());
  return result;
}

describe('LOMO', () => {
  test('equals SGD without momentum bit for bit on float32 weights', () => {
    expect(trained(lomo(), 20)).toEqual(trained(sgd(), 20));
  });

  test('shrinks weights by lr x weight decay before the update, except those of noDecay', () => {
    const weightDecay = 0.5;
    const noDecay = (name: string) => name.includes('norm');
    const parameters = smallParameters('float32');
    const before = parameters.map((parameter) => new Float32Array(parameter.bytes().buffer));
    const optimizer = lomo({ weightDecay, noDecay })(parameters);
    optimizer.learningRate = 0.1;
    const gradient = tf.fill(smallShape, 2);
    optimizer.beginStep();
    parameters.forEach(({ name }) => optimizer.update(name, gradient));
    parameters.forEach((parameter, i) => {
      const shrunk = noDecay(parameter.name) ? 1 : 1 - 0.1 * weightDecay;
      const after = new Float32Array(parameter.bytes().buffer);
      after.forEach((value, j) => expect(value).toBeCloseTo(before[i][j] * shrunk - 0.1 * 2, 6));
      parameter.dispose();
    });
    gradient.dispose();
    optimizer.dispose();
  });

  test('rounds a 16-bit weight after every update and keeps nothing else of it', () => {
    const parameters = smallParameters('bfloat16');
    const optimizer = lomo({ learningRate: 1 })(parameters);
    const live = liveTensors();
    takeSteps(optimizer, 0, 3);
    expect(liveTensors() - live).toBe(2); // the learning rate, and that times the weight decay
    expect(optimizer.memory()).toEqual({ masters: 0, states: 0 });
    expect([...optimizer.state().tensors]).toEqual([]);
    // An update below half a unit in the last place is lost.
    const before = contents(parameters);
    optimizer.learningRate = 1;
    const gradient = tf.fill(smallShape, 2 ** -30);
    optimizer.beginStep();
    optimizer.update(smallNames[0], gradient);
    expect(contents(parameters)).toEqual(before);
    gradient.dispose();
    optimizer.dispose();
    parameters.forEach((parameter) => parameter.dispose());
  });

  test('refuses a loss scale for weights that are not float16', () => {
    const parameters = smallParameters('bfloat16');
    expect(() => lomo({ lossScale: {} })(parameters)).toThrow(
      `lossScale is for float16 weights, but ${smallNames[0]} is stored as bfloat16: leave it out; bfloat16 and float32 gradients do not overflow`,
    );
    parameters.forEach((parameter) => parameter.dispose());
  });
});

describe('AdaLomo', () => {
  test('keeps a number for each row and column of a matrix', () => {
    const parameters = smallParameters('bfloat16', ['p']);
    const optimizer = adaLomo()(parameters);
    takeSteps(optimizer, 0, 1);
    expect([...optimizer.state().tensors].map(([name, { shape }]) => [name, shape])).toEqual([
      ['p.exp_avg_sq_row', [4]],
      ['p.exp_avg_sq_col', [3]],
    ]);
    expect(optimizer.memory()).toEqual({ masters: 0, states: 4 * 7 });
    optimizer.dispose();
    parameters[0].dispose();
  });

  test('moves a weight by lr times its root mean square where gradients are all alike', () => {
    const parameters = smallParameters('float32', ['p']);
    const before = new Float32Array(parameters[0].bytes().buffer);
    const size = Math.sqrt(before.reduce((sum, x) => sum + x * x, 0) / before.length);
    const optimizer = adaLomo({ learningRate: 0.1 })(parameters);
    const gradient = tf.fill(smallShape, -1e-3);
    optimizer.beginStep();
    optimizer.update('p', gradient);
    const after = new Float32Array(parameters[0].bytes().buffer);
    after.forEach((value, i) => expect(value).toBeCloseTo(before[i] + 0.1 * size, 6));
    gradient.dispose();
    optimizer.dispose();
    parameters[0].dispose();
  });
});

describe('optimizer groups', () => {
  const split = (parameters: readonly Parameter[], rates: readonly [number, number]) =>
    optimizerGroups([
      { parameters: parameters.slice(0, 9), factory: lomo({ learningRate: rates[0] }) },
      { parameters: parameters.slice(9), factory: adamW({ learningRate: rates[1] }) },
    ]);

  test('train each parameter as its own optimizer would alone, at a learning rate in proportion to the first', () => {
    const all = smallParameters('float32');
    const together = split(all, [0.02, 0.01]);
    expect([together.fused, together.learningRate]).toEqual([true, 0.02]);
    expect([...together.trainable]).toEqual(smallNames);
    takeSteps(together, 0, 5);
    expect(together.learningRate).toBe(0.01);

    const alone = smallParameters('float32');
    const [first, second] = [lomo()(alone.slice(0, 9)), adamW()(alone.slice(9))];
    takeSteps(first, 0, 5);
    const halved = Object.create(second, {
      learningRate: { get: () => second.learningRate, set: (value: number) => (second.learningRate = value / 2) },
    }) as typeof second;
    takeSteps(halved, 0, 5);
    expect(contents(all)).toEqual(contents(alone));
    for (const optimizer of [together, first, second]) optimizer.dispose();
    [...all, ...alone].forEach((parameter) => parameter.dispose());
  });

  test('go on where they stopped, bit for bit, with LOMO on bfloat16 weights and AdamW beside it', () => {
    const [whole, part] = [smallParameters(), smallParameters()];
    const [uninterrupted, interrupted] = [split(whole, [0.02, 0.01]), split(part, [0.02, 0.01])];
    takeSteps(uninterrupted, 0, 20);
    takeSteps(interrupted, 0, 7);
    const state = interrupted.state();
    interrupted.dispose();
    const resumed = split(part, [0.02, 0.01]);
    resumed.restore({ ...state, scalars: JSON.parse(JSON.stringify(state.scalars)) });
    takeSteps(resumed, 7, 20);
    expect(contents(part)).toEqual(contents(whole));
    for (const groups of [undefined, [null, null]])
      expect(() => resumed.restore({ scalars: { groups } as never, tensors: new Map() })).toThrow(
        'it is not of 2 groups',
      );
    for (const optimizer of [uninterrupted, resumed]) optimizer.dispose();
    [...whole, ...part].forEach((parameter) => parameter.dispose());
  });

  test('refuse a parameter in two groups, no group, and a first learning rate of 0', () => {
    const parameters = smallParameters('float32', ['p']);
    const group = { parameters, factory: lomo() };
    expect(() => optimizerGroups([group, group])).toThrow(
      'the optimizer groups: p is in more than one group: give each parameter to one optimizer',
    );
    expect(() => optimizerGroups([])).toThrow('the optimizer groups: there is no group, expected at least one');
    const others = smallParameters('float32', ['q']);
    expect(() => optimizerGroups([{ parameters, factory: lomo({ learningRate: 0 }) }, { parameters: others, factory: lomo() }])).toThrow("the first group's learning rate is 0"); // prettier-ignore
    [...parameters, ...others].forEach((parameter) => parameter.dispose());
  });
});
