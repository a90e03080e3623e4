import { expect, test } from 'vitest';
import { initTensorFlow, tf } from './index.ts';

test('before initTensorFlow() every operation says that it is missing, and after it TensorFlow computes', async () => {
  const calls: Record<string, () => unknown> = {
    tensor1d: () => tf.tensor1d([1]),
    add: () => tf.add(1, 2),
    zeros: () => tf.zeros([2]),
    fill: () => tf.fill([2], 1),
    randomNormal: () => tf.tidy(() => tf.randomNormal([2])),
    variable: () => tf.variable(tf.scalar(1)),
    memory: () => tf.memory(),
  };
  for (const [name, call] of Object.entries(calls))
    expect(call, name).toThrow('TensorFlow is not loaded yet: await initTensorFlow() first');
  await initTensorFlow();
  expect(tf.getBackend()).toBe('tensorflow');
  for (const [name, call] of Object.entries(calls)) expect(call, name).not.toThrow();
  expect(tf.tidy(() => tf.add(1, 2).dataSync())).toEqual(Float32Array.of(3));
});
