import process from 'node:process';
import { beforeAll, describe, expect, test } from 'vitest';
import { initTensorFlow, liveTensors, readMemory, tf, Variable, type AdamScalars } from './index.ts';

beforeAll(() => initTensorFlow());

/** A variable of these values; the tensor it began with is gone, so updates are in place. */
function variableOf(values: readonly number[]): Variable {
  const initial = tf.tensor1d([...values]);
  const variable = new Variable(initial);
  initial.dispose();
  return variable;
}
const valuesOf = (variable: Variable) => tf.tidy(() => Array.from(variable.read().dataSync()));
const gradients = [
  [0.5, -2, 1e-3, 0],
  [-0.25, 1, 4, 0],
  [0.125, 8, -2e-4, 0],
  [3, -1, 0.7, 0],
];
const start = [1, -1, 0.5, 2];

/** float32 against float64: a few units in the last place of values near 1. */
function expectClose(found: readonly number[], expected: readonly number[]) {
  found.forEach((value, i) => expect(Math.abs(value - expected[i])).toBeLessThan(2e-6 * Math.max(1, Math.abs(value))));
}

function adamScalars(step: number, epsilon: number): AdamScalars {
  return {
    beta1Power: tf.scalar(0.9 ** step),
    beta2Power: tf.scalar(0.999 ** step),
    learningRate: tf.scalar(0.01),
    beta1: tf.scalar(0.9),
    beta2: tf.scalar(0.999),
    epsilon: tf.scalar(epsilon),
  };
}

describe('a variable', () => {
  test('reads what it holds, and takes new values, sums and differences', () => {
    const variable = variableOf([1, 2, 3]);
    expect(variable.shape).toEqual([3]);
    expect(variable.byteLength).toBe(12);
    tf.tidy(() => variable.assign(tf.tensor1d([4, 5, 6])));
    tf.tidy(() => variable.subtract(tf.tensor1d([1, 1, 1])));
    tf.tidy(() => variable.add(tf.tensor1d([0, 0.5, 0])));
    expect(valuesOf(variable)).toEqual([3, 4.5, 5]);
    expect(() => variable.assign(tf.zeros([2]))).toThrow(
      'a float32 variable of shape [3] cannot hold a float32 tensor of shape [2]',
    );
    variable.dispose();
  });

  test('leaves an earlier read as it was', () => {
    const variable = variableOf([1, 2]);
    const read = variable.read();
    tf.tidy(() => variable.add(tf.tensor1d([1, 1])));
    expect(read.arraySync()).toEqual([1, 2]);
    expect(valuesOf(variable)).toEqual([2, 3]);
    [read, variable].forEach((x) => x.dispose());
  });

  test('says so when it is used after dispose()', () => {
    const before = liveTensors();
    const variable = variableOf([1, 2]);
    variable.dispose();
    variable.dispose();
    expect(liveTensors()).toBe(before);
    expect(() => variable.read()).toThrow('a variable of shape [2] is used after dispose()');
    expect(() => tf.tidy(() => variable.add(tf.ones([2])))).toThrow(
      expect.objectContaining({ name: 'TensorUseError' }),
    );
  });

  test('refuses an update of another shape, naming the operation and the shapes', () => {
    const variable = variableOf([1, 2]);
    expect(() => tf.tidy(() => variable.applyGradientDescent(tf.scalar(1), tf.ones([3])))).toThrow(
      /^ResourceApplyGradientDescent\(resource\[\], float32\[\], float32\[3\]\): .*\[INVALID_ARGUMENT\]$/,
    );
    variable.dispose();
  });
});

describe('updates equal their formula in float64', () => {
  test('Adam, with epsilon outside the bias correction', () => {
    const [p, m, v] = [variableOf(start), variableOf([0, 0, 0, 0]), variableOf([0, 0, 0, 0])];
    const expected = { p: [...start], m: [0, 0, 0, 0], v: [0, 0, 0, 0] };
    const epsilon = 1e-3; // large, so that its place shows
    gradients.forEach((gradient, index) => {
      const step = index + 1;
      tf.tidy(() => p.applyAdam(m, v, adamScalars(step, epsilon), tf.tensor1d(gradient)));
      const rate = (0.01 * Math.sqrt(1 - 0.999 ** step)) / (1 - 0.9 ** step);
      gradient.forEach((g, i) => {
        expected.m[i] = 0.9 * expected.m[i] + 0.1 * g;
        expected.v[i] = 0.999 * expected.v[i] + 0.001 * g * g;
        expected.p[i] -= (rate * expected.m[i]) / (Math.sqrt(expected.v[i]) + epsilon);
      });
      expectClose(valuesOf(p), expected.p);
      expectClose(valuesOf(m), expected.m);
      expectClose(valuesOf(v), expected.v);
    });
    [p, m, v].forEach((variable) => variable.dispose());
  });

  test('gradient descent', () => {
    const p = variableOf(start);
    const expected = [...start];
    for (const gradient of gradients) {
      tf.tidy(() => p.applyGradientDescent(tf.scalar(0.1), tf.tensor1d(gradient)));
      gradient.forEach((g, i) => (expected[i] -= 0.1 * g));
      expectClose(valuesOf(p), expected);
    }
    p.dispose();
  });

  test.each([false, true])('momentum as PyTorch has it, nesterov %s', (nesterov) => {
    const [p, a] = [variableOf(start), variableOf([0, 0, 0, 0])];
    const [expected, buffer] = [[...start], [0, 0, 0, 0]];
    for (const gradient of gradients) {
      tf.tidy(() => p.applyMomentum(a, tf.scalar(0.1), tf.tensor1d(gradient), tf.scalar(0.9), nesterov));
      gradient.forEach((g, i) => {
        buffer[i] = 0.9 * buffer[i] + g;
        expected[i] -= 0.1 * (nesterov ? g + 0.9 * buffer[i] : buffer[i]);
      });
      expectClose(valuesOf(p), expected);
      expectClose(valuesOf(a), buffer);
    }
    [p, a].forEach((variable) => variable.dispose());
  });
});

test.skipIf(process.platform !== 'linux')(
  '20 Adam updates of 50 million elements take no memory beside the variables',
  () => {
    const size = 50e6;
    const zeros = () => {
      const initial = tf.fill([size], 0);
      const variable = new Variable(initial);
      initial.dispose();
      return variable;
    };
    const [p, m, v] = [zeros(), zeros(), zeros()];
    const gradient = tf.fill([size], 1);
    const update = (step: number) => tf.tidy(() => p.applyAdam(m, v, adamScalars(step, 1e-8), gradient));
    update(1);
    const before = readMemory();
    let most = 0;
    for (let step = 2; step <= 20; step++) {
      update(step);
      most = Math.max(most, readMemory().anonymous!);
    }
    // One copy of a variable would be 200 MB.
    expect(most - before.anonymous!).toBeLessThan(20e6);
    // A constant gradient makes every step of Adam one learning rate long.
    const last = tf.tidy(
      () =>
        p
          .read()
          .slice(size - 1)
          .dataSync()[0],
    );
    expect(last).toBeCloseTo(-0.2, 5);
    [p, m, v, gradient].forEach((x) => x.dispose());
  },
);
