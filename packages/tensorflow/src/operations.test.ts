import { beforeAll, describe, expect, test } from 'vitest';
import {
  addRowsInPlace,
  allFinite,
  attribute,
  batchMatMulBfloat16,
  cast,
  compile,
  initTensorFlow,
  matMul2d,
  matMulBfloat16,
  operation,
  productInTerms,
  sparseSoftmaxCrossEntropy,
  takeFloat32,
  tf,
  timesTransposed,
  toRaw,
  type RawTensor,
} from './index.ts';

beforeAll(() => initTensorFlow());

test.each(['float32', 'bfloat16', 'float16'] as const)('allFinite finds one NaN or infinity in %s', (dtype) => {
  const found = (values: number[]) =>
    tf.tidy(() => {
      const x = tf.tensor1d(values);
      const raw = toRaw(x, dtype);
      const result = allFinite(dtype === 'float32' ? x : raw);
      raw.dispose();
      return result;
    });
  expect(found([0, -1, 65504])).toBe(true);
  for (const wrong of [NaN, Infinity, -Infinity]) expect(found([0, wrong, 1])).toBe(false);
});

test('addRowsInPlace adds to rows in their own buffer, to one twice where it is named twice', () => {
  const x = tf.tensor2d([1, 2, 3, 4, 5, 6], [3, 2]);
  const same = tf.clone(x);
  const sum = tf.tidy(() =>
    addRowsInPlace(x, tf.tensor1d([2, 0, 2], 'int32'), tf.tensor2d([10, 20, 30, 40, 1, 1], [3, 2])),
  );
  const expected = [31, 42, 3, 4, 16, 27];
  expect([...sum.dataSync()]).toEqual(expected);
  expect([...same.dataSync()]).toEqual(expected);
  expect(x.isDisposed).toBe(true);
  tf.dispose([same, sum]);
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

test('matMulBfloat16 rounds operands and result to bfloat16, and sums in float32', () => {
  // Half an ulp above 1 goes to the even neighbour, a bit more goes up; 256 + 1 needs nine bits and is rounded to 256 or 258.
  const [ulp, big] = [2 ** -7, 256];
  const valuesOf = (product: RawTensor) => takeFloat32(product).arraySync();
  tf.tidy(() => {
    const one = tf.tensor2d([[1]]);
    const rounded = (value: number) => (valuesOf(matMulBfloat16(tf.tensor2d([[value]]), one)) as number[][])[0][0];
    expect([1 + ulp / 2, 1 + 0.51 * ulp, 1 + 1.5 * ulp].map(rounded)).toEqual([1, 1 + ulp, 1 + 2 * ulp]);
    // In bfloat16 sums, 256 + 1 + 1 + ... would stay 256.
    const row = tf.tensor2d([[big, ...Array<number>(64).fill(1)]]);
    expect(valuesOf(matMulBfloat16(row, tf.ones([65, 1])))).toEqual([[320]]);
    expect(valuesOf(matMulBfloat16(tf.ones([1, 65]), row, false, true))).toEqual([[320]]);
    expect(valuesOf(matMulBfloat16(tf.ones([65, 1]), row, true, true))).toEqual([[320]]);
  });
});

test('batchMatMulBfloat16 rounds alike, in each matrix of a batch', () => {
  tf.tidy(() => {
    const row = tf.tensor3d([[[1 + 2 ** -8, 256]], [[3, 1]]]); // 1 + half an ulp becomes 1
    const ones = tf.ones([2, 2, 1]) as tf.Tensor3D;
    expect(batchMatMulBfloat16(row, ones).arraySync()).toEqual([[[256]], [[4]]]);
    expect(batchMatMulBfloat16(row, row, false, true).arraySync()).toEqual([[[65536]], [[10]]]);
  });
});

// Several of these shapes end the process where TensorFlow broadcasts them itself: heap corruption in its oneDNN (tensorflow/tensorflow#117700).
test.each([
  ['of one matrix', [13, 1, 3, 4], [4, 16]],
  ['of one axis beside an axis of 1', [13, 1, 64, 64], [1, 1, 64, 16]],
  ['of both operands', [5, 1, 3, 4], [1, 2, 4, 6]],
])('products of a batch are broadcast: %s', (_, a, b) => {
  const [x, y] = [a, b].map((shape, i) => tf.randomUniform(shape, -1, 1, 'float32', i));
  const once = compile('broadcast', (x, y) => [tf.matMul(x as tf.Tensor, y as tf.Tensor)]);
  const [rows, columns] = [a.at(-2)!, b.at(-1)!];
  tf.tidy(() => {
    // Element by element, as broadcasting is of multiplication: [..., rows, inner, 1] * [..., 1, inner, columns].
    const want = tf.sum(tf.mul(tf.expandDims(x, -1), tf.expandDims(y, -3)), -2);
    for (let repetition = 0; repetition < 20; repetition++) {
      const results = [tf.matMul(x, y), once(x, y)[0]];
      expect(results[0].shape.slice(-2)).toEqual([rows, columns]);
      for (const result of results) expect(tf.max(tf.abs(tf.sub(result, want))).arraySync()).toBeLessThan(1e-4);
    }
  });
  once.dispose();
  tf.dispose([x, y]);
});

test.each([
  ['few rows', 4, 512, 8],
  ['long sides', 800, 512, 784],
  ['rows that gemm would not pack', 48, 512, 24],
  ['very long rows', 16, 4104, 40],
  ['few rows, many outputs', 64, 96, 8192],
])('timesTransposed is x W^T: %s', (_, rows, inner, outputs) => {
  tf.tidy(() => {
    const x = tf.randomNormal<tf.Rank.R2>([rows, inner], 0, 1, 'float32', 1);
    const weight = tf.randomNormal<tf.Rank.R2>([outputs, inner], 0, 1, 'float32', 2);
    const expected = tf.sum(tf.mul(tf.expandDims(x.slice(0, 4), 1), tf.expandDims(weight, 0)), 2);
    const product = timesTransposed(x, weight);
    expect(product.shape).toEqual([rows, outputs]);
    expect(tf.max(tf.abs(tf.sub(product.slice(0, 4), expected))).arraySync()).toBeLessThan(2e-4);
  });
});

test.each([true, false])(
  'productInTerms is as close to float64 as a product in float32, transposed: %s, and the same in every call',
  async (transposed) => {
    const [N, K, M] = [64, 512, 96];
    const x = tf.randomNormal<tf.Rank.R2>([N, K], 0, 1, 'float32', 1);
    const values = tf.randomNormal<tf.Rank.R2>(transposed ? [M, K] : [K, M], 0, 1, 'float32', 2);
    const weight = toRaw(values, 'bfloat16');
    const exact = cast(weight);
    const [a, b] = [x.arraySync(), exact.arraySync() as number[][]];
    const of = (k: number, m: number) => (transposed ? b[m][k] : b[k][m]);
    const errorOf = (product: number[][]) => {
      let sum = 0;
      for (let n = 0; n < N; n++)
        for (let m = 0; m < M; m++) {
          let expected = 0;
          for (let k = 0; k < K; k++) expected += a[n][k] * of(k, m);
          sum += (product[n][m] - expected) ** 2;
        }
      return Math.sqrt(sum / (N * M));
    };
    const f = compile('inTerms', (x, weight) => [productInTerms(x as tf.Tensor, weight as RawTensor, transposed)]);
    const [first] = f(x, weight);
    const [second] = await f.async(x, weight);
    const plain = matMul2d(x, exact, false, transposed);
    expect(first.shape).toEqual([N, M]);
    expect(second.dataSync()).toEqual(first.dataSync());
    const error = errorOf(first.arraySync() as number[][]);
    expect(error).toBeLessThan(1.5 * errorOf(plain.arraySync()));
    expect(error).toBeGreaterThan(0);
    tf.dispose([x, values, exact, first, second, plain]);
    weight.dispose();
    f.dispose();
  },
);

describe('sparseSoftmaxCrossEntropy', () => {
  const logits = [
    [1, 2, -3, 0.5],
    [80, -80, 0, 79], // exp() of the first would overflow float32
    [-200, 0, 1, 2], // the label's probability is 0 in float32
  ];
  const labels = [2, 0, 0];

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
    expect(() =>
      tf.tidy(() => sparseSoftmaxCrossEntropy(tf.tensor2d(logits), tf.tensor1d([0, 4, 0], 'int32'))),
    ).toThrow(/GatherNd\(float32\[3,4\], int32\[3,2\]\): .*indices\[1\] = \[1, 4\] does not index/s);
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
