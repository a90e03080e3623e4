import { initTensorFlow, tf, type AnyTensor } from '@blockwise/tensorflow';
import { beforeAll, describe, expect, it } from 'vitest';
import { OpenGradients } from './open-gradients.ts';

beforeAll(() => initTensorFlow());

const name = 'weight';
const shape = [8, 16];
/** Factors of 512 rows: together 24 times the gradient's bytes. */
const factors = (seed: number) => {
  const [dy, x] = shape.map((width, i) => tf.randomNormal([512, width], 0, 1, 'float32', 2 * seed + i));
  return [dy, x] as [tf.Tensor, tf.Tensor];
};
const sumOf = (terms: [tf.Tensor, tf.Tensor][]) =>
  tf.tidy(() => tf.addN(terms.map(([dy, x]) => tf.matMul(dy, x, true) as tf.Tensor)).dataSync());

describe('gradients that are still growing', () => {
  it('hold two pairs of factors at most where those take more than the gradient, over any number of micro-batches', () => {
    const open = new OpenGradients(() => undefined);
    const bytes: number[] = [];
    const terms = Array.from({ length: 6 }, (_, i) => factors(i));
    const expected = sumOf(terms);
    const before = tf.memory().numBytes;
    for (const term of terms) {
      open.add({ name, shape }, term);
      bytes.push(tf.memory().numBytes - before);
    }
    // What was added is gone, but for the gradient and a pair that is alone.
    expect(bytes.at(-1)! - bytes[1]).toBeLessThanOrEqual(bytes[0] - bytes[1]);
    expect(Math.max(...bytes)).toBe(bytes[0]);
    const [[, gradient]] = [...open.take(new Set())];
    const values = (gradient as tf.Tensor).dataSync();
    expect(Math.max(...values.map((value, i) => Math.abs(value - expected[i])))).toBeLessThan(1e-3);
    gradient.dispose();
  });

  it('are freed by dispose() where nobody takes them', () => {
    const before = tf.memory().numTensors;
    const open = new OpenGradients(() => undefined);
    open.add({ name, shape }, factors(1));
    open.add({ name: 'other', shape }, [tf.zeros(shape) as AnyTensor]);
    expect(tf.memory().numTensors).toBe(before + 3);
    open.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });
});
