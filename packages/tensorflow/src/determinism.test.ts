import { createHash } from 'node:crypto';
import { beforeAll, expect, test } from 'vitest';
import { compile, initTensorFlow, sparseSoftmaxCrossEntropy, tf, type AnyTensor } from './index.ts';
import { linear } from './linear.test-support.ts';

beforeAll(() => initTensorFlow());

const random = (shape: number[], seed: number) => tf.randomNormal(shape, 0, 0.05, 'float32', seed);

/**
 * What a training step is made of: an embedding whose gradient adds up repeated indices (UnsortedSegmentSum), GEMMs of 512 x 768 x 2048 in
 * all three forms, softmax, reductions and the loss.
 */
const step = compile('step', (...inputs) => {
  const [ids, labels, table, up, down] = inputs as tf.Tensor[];
  const loss = (table: tf.Tensor, up: tf.Tensor, down: tf.Tensor) => {
    const x = tf.gather(table, ids as tf.Tensor1D) as tf.Tensor2D; // [512, 768]
    const hidden = tf.softmax(linear(x, up as tf.Tensor2D)); // [512, 2048]
    const y = tf.add(x, linear(hidden, down as tf.Tensor2D)) as tf.Tensor2D;
    const logits = linear(y, table as tf.Tensor2D);
    return tf
      .sub(tf.logSumExp(logits, 1), tf.mul(logits, tf.oneHot(labels as tf.Tensor1D, 1000)).sum(1))
      .mean()
      .asScalar();
  };
  const { value, grads } = tf.valueAndGrads(loss as never)([table, up, down]);
  return [
    value as tf.Tensor,
    ...grads,
    ...sparseSoftmaxCrossEntropy(
      tf.matMul(tf.gather(table, ids as tf.Tensor1D), table, false, true) as tf.Tensor2D,
      labels as tf.Tensor1D,
    ),
  ];
});

const hash = (tensors: AnyTensor[]) =>
  tensors.map((tensor) => {
    const values = (tensor as tf.Tensor).dataSync();
    tensor.dispose();
    return createHash('sha256')
      .update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
      .digest('hex');
  });

test('a compiled step run 20 times, at once and asynchronously, gives the same bits', async () => {
  const tokens = (period: number) =>
    tf.tensor1d(
      Int32Array.from({ length: 512 }, (_, i) => (i * i) % period),
      'int32',
    );
  const inputs = [tokens(37), tokens(997), random([1000, 768], 1), random([2048, 768], 2), random([768, 2048], 3)];
  const first = hash(step(...inputs));
  expect(new Set(first).size).toBe(first.length); // the outputs are not all one
  for (let run = 1; run < 20; run++)
    expect(hash(run % 2 ? step(...inputs) : await step.async(...inputs)), `run ${run}`).toEqual(first);
  inputs.forEach((x) => x.dispose());
  step.dispose();
});
