import { plainLinear } from '@blockwise/model-zoo';
import { initTensorFlow, tf } from '@blockwise/tensorflow';
import { beforeAll, expect, test } from 'vitest';
import { dropout, loraLinear } from './lora-layer.ts';

beforeAll(() => initTensorFlow());

const wave = (shape: [number, number], phase: number) =>
  tf.tensor2d(
    Float32Array.from({ length: shape[0] * shape[1] }, (_, i) => Math.sin(1.3 * i + phase)),
    shape,
  );

test('y = x W^T + s drop(x) A^T B^T, with gradients as the formula has them', () => {
  const [x, w, a, b] = [wave([5, 4], 1), wave([6, 4], 2), wave([2, 4], 3), wave([6, 2], 4)];
  const drop = (_: string, x: tf.Tensor2D) => dropout(x, 0.3, [tf.scalar(3, 'int32'), tf.scalar(4, 'int32')]);
  const layer = loraLinear(plainLinear, 1.7, drop);
  const f = (x: tf.Tensor, a: tf.Tensor, b: tf.Tensor) =>
    layer('m', x as tf.Tensor2D, { 'm.weight': w, 'm.lora_A.weight': a, 'm.lora_B.weight': b });
  const formula = (x: tf.Tensor, a: tf.Tensor, b: tf.Tensor) => {
    const low = tf.matMul(drop('m', x as tf.Tensor2D), a as tf.Tensor2D, false, true);
    return tf.add(
      tf.matMul(x as tf.Tensor2D, w, false, true),
      tf.mul(1.7, tf.matMul(low, b as tf.Tensor2D, false, true)),
    );
  };
  const dy = wave([5, 6], 5);
  const ours = tf.valueAndGrads(f)([x, a, b], dy);
  const theirs = tf.valueAndGrads(formula)([x, a, b], dy);
  const values = (r: { value: tf.Tensor; grads: tf.Tensor[] }) =>
    [r.value, ...r.grads].flatMap((t) => [...t.dataSync()]);
  values(ours).forEach((value, i) => expect(value).toBeCloseTo(values(theirs)[i], 4));
});

test('dropout zeroes the asked share and scales the rest so that the mean stays', () => {
  const seeds: [tf.Scalar, tf.Scalar] = [tf.scalar(1, 'int32'), tf.scalar(2, 'int32')];
  const dropped = dropout(tf.ones([200, 100]), 0.25, seeds).dataSync();
  const zeros = dropped.filter((x) => x === 0).length / dropped.length;
  expect(Math.abs(zeros - 0.25)).toBeLessThan(5 * Math.sqrt((0.25 * 0.75) / 20000)); // five standard deviations
  expect(new Set(dropped)).toEqual(new Set([0, Math.fround(1 / 0.75)]));
});
