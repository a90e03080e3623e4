import { beforeAll, describe, expect, test } from 'vitest';
import {
  attribute,
  compile,
  initTensorFlow,
  linear,
  matMul2d,
  operation,
  sparseSoftmaxCrossEntropy,
  tf,
} from './index.ts';

beforeAll(() => initTensorFlow());

describe('linear', () => {
  const x = [
    [1, -2, 0.5],
    [0, 3, -1],
  ];
  const weight = [
    [0.5, 1, -1],
    [2, 0, 1],
    [-1, 0.25, 3],
    [1, 1, 1],
  ];

  test('multiplies by the transposed weight, as PyTorch does', () => {
    const y = tf.tidy(() => linear(tf.tensor2d(x), tf.tensor2d(weight)).arraySync());
    expect(y).toEqual(x.map((row) => weight.map((w) => w.reduce((sum, value, i) => sum + value * row[i], 0))));
  });

  test.each(['at once', 'compiled'])('has the gradients that finite differences give, %s', (how) => {
    // Cubed, so that the gradient differs from place to place.
    const loss = (x: tf.Tensor, w: tf.Tensor) =>
      linear(x as tf.Tensor2D, w as tf.Tensor2D)
        .pow(3)
        .sum()
        .asScalar();
    const gradients = (...inputs: tf.Tensor[]) => tf.grads((x, w) => loss(x, w))(inputs);
    const run = how === 'compiled' ? compile('gradients', gradients as never) : gradients;
    const [dx, dw] = tf.tidy(() =>
      (run(tf.tensor2d(x), tf.tensor2d(weight)) as tf.Tensor[]).map((g) => g.arraySync() as number[][]),
    );
    const lossOf = (x: number[][], weight: number[][]) =>
      x
        .flatMap((row) => weight.map((w) => w.reduce((s, value, i) => s + value * row[i], 0) ** 3))
        .reduce((s, y) => s + y, 0);
    const step = 1e-5;
    const nudged = (matrix: number[][], r: number, c: number, by: number) =>
      matrix.map((row, i) => row.map((value, j) => (i === r && j === c ? value + by : value)));
    for (const [r, row] of x.entries())
      for (const c of row.keys()) {
        const slope = (lossOf(nudged(x, r, c, step), weight) - lossOf(nudged(x, r, c, -step), weight)) / (2 * step);
        expect(dx[r][c]).toBeCloseTo(slope, 3);
      }
    for (const [r, row] of weight.entries())
      for (const c of row.keys()) {
        const slope = (lossOf(x, nudged(weight, r, c, step)) - lossOf(x, nudged(weight, r, c, -step))) / (2 * step);
        expect(dw[r][c]).toBeCloseTo(slope, 3);
      }
  });
});

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
