import { beforeAll, describe, expect, test } from 'vitest';
import { attribute, initTensorFlow, matMul2d, operation, sparseSoftmaxCrossEntropy, tf } from './index.ts';

beforeAll(() => initTensorFlow());

test('matMul2d transposes what it is asked to', () => {
  tf.tidy(() => {
    const [a, b] = [tf.tensor2d([[1, 2, 3]]), tf.tensor2d([[4, 5, 6]])];
    expect(matMul2d(a, b, false, true).arraySync()).toEqual([[32]]);
    expect(matMul2d(a, b, true, false).arraySync()).toEqual([
      [4, 5, 6],
      [8, 10, 12],
      [12, 15, 18],
    ]);
    expect(matMul2d(a, tf.tensor2d([[1], [2]]), true, true).arraySync()).toEqual([
      [1, 2],
      [2, 4],
      [3, 6],
    ]);
    expect(matMul2d(b, tf.tensor2d([[1], [0], [2]])).arraySync()).toEqual([[16]]);
  });
});

describe('sparseSoftmaxCrossEntropy', () => {
  const logits = [
    [1, 2, -3, 0.5],
    [80, -80, 0, 79], // exp() of the first would overflow float32
  ];
  const labels = [2, 0];

  test('is the formula, and its second output the gradient of each row', () => {
    const [loss, gradient] = tf.tidy(() =>
      sparseSoftmaxCrossEntropy(tf.tensor2d(logits), tf.tensor1d(labels, 'int32')).map((y) => y.arraySync()),
    ) as [number[], number[][]];
    logits.forEach((row, i) => {
      const largest = Math.max(...row);
      const sum = row.reduce((s, value) => s + Math.exp(value - largest), 0);
      expect(loss[i]).toBeCloseTo(largest + Math.log(sum) - row[labels[i]], 5);
      row.forEach((value, j) =>
        expect(gradient[i][j]).toBeCloseTo(Math.exp(value - largest) / sum - (j === labels[i] ? 1 : 0), 6),
      );
    });
  });

  test('refuses a label outside the classes', () => {
    expect(() => tf.tidy(() => sparseSoftmaxCrossEntropy(tf.tensor2d(logits), tf.tensor1d([0, 4], 'int32')))).toThrow(
      /SparseSoftmaxCrossEntropyWithLogits\(float32\[2,4\], int32\[2\]\): .*label.*outside the valid range/s,
    );
  });
});

test('operation() reaches any operation of TensorFlow', () => {
  tf.tidy(() => {
    const a = tf.tensor2d([
      [3, 0],
      [0, -2],
    ]);
    const attributes = [
      attribute.bool('compute_uv', false),
      attribute.bool('full_matrices', false),
      attribute.type('T', 1),
    ];
    expect(operation('Svd', attributes, [a])[0].arraySync()).toEqual([3, 2]);
  });
});
