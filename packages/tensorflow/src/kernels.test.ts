import { beforeAll, describe, expect, test } from 'vitest';
import { compile, initTensorFlow, tf } from './index.ts';

/*
 * Truth: the CPU backend of TensorFlow.js, which is plain JavaScript and comes with the kernels' package. Every kernel registered for
 * our backend is run by some case, or listed with the reason why not.
 */
beforeAll(() => initTensorFlow());
const called = new Set<string>();

const matrix = () => tf.tensor2d([[1, -2, 3], [0.5, 4, -0.25]]); // prettier-ignore
const positive = () => tf.tensor2d([[0.1, 0.2, 0.9], [0.5, 0.7, 0.3]]); // prettier-ignore
const above = () => positive().add(1);
const grid = (...shape: number[]) =>
  tf.tensor(
    Float32Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => Math.sin(i * 1.7)),
    shape,
  );
const image = () => grid(1, 6, 6, 2) as tf.Tensor4D;
const volume = () => grid(1, 4, 4, 4, 1) as tf.Tensor5D;
const truths = () => tf.tensor1d([true, false, true], 'bool');
const ints = (...values: number[]) => tf.tensor1d(values, 'int32');
const sums = (...inputs: tf.Tensor[]) => inputs.map((x) => x.square().sum()).reduce((a, b) => a.add(b)).asScalar(); // prettier-ignore
const gradients = (f: (...x: never[]) => tf.Tensor, ...inputs: tf.Tensor[]) =>
  tf.grads((...x) => sums(f(...(x as never[]))))(inputs);
const boxes = () => tf.tensor2d([[0, 0, 1, 1], [0, 0, 0.95, 1], [0, 2, 1, 3]]); // prettier-ignore
const scores = () => tf.tensor1d([0.9, 0.8, 0.7]);

type Result = tf.Tensor | tf.Tensor[];
const elementwise: Record<string, () => Result> = Object.fromEntries([
  ...(['abs', 'asinh', 'atan', 'ceil', 'cos', 'cosh', 'elu', 'erf', 'exp', 'expm1', 'floor', 'isFinite', 'isInf', 'isNaN'] as const).map((name) => [name, () => tf[name](matrix())] as const),
  ...(['leakyRelu', 'neg', 'reciprocal', 'relu', 'relu6', 'round', 'selu', 'sigmoid', 'sign', 'sin', 'sinh', 'softplus', 'square', 'step', 'tan', 'tanh', 'onesLike', 'zerosLike', 'clone'] as const).map((name) => [name, () => tf[name](matrix())] as const),
  ...(['acos', 'asin', 'atanh', 'log', 'log1p', 'rsqrt', 'sqrt', 'logSigmoid', 'logSoftmax', 'softmax'] as const).map((name) => [name, () => tf[name](positive())] as const),
  ...(['acosh'] as const).map((name) => [name, () => tf[name](above())] as const),
  ...(['add', 'atan2', 'div', 'maximum', 'minimum', 'mod', 'mul', 'squaredDifference', 'sub', 'equal', 'greater', 'greaterEqual', 'less', 'lessEqual', 'notEqual'] as const).map((name) => [name, () => (tf[name] as typeof tf.add)(matrix(), tf.tensor1d([1, 0.75, 3]))] as const),
  ...(['all', 'any'] as const).map((name) => [name, () => tf[name](truths())] as const),
  ...(['argMax', 'argMin', 'max', 'mean', 'min', 'prod', 'sum', 'logSumExp'] as const).map((name) => [name, () => (tf[name] as (x: tf.Tensor, axis: number) => tf.Tensor)(matrix(), 1)] as const),
  ...(['logicalAnd', 'logicalOr', 'logicalXor'] as const).map((name) => [name, () => tf[name](truths(), tf.tensor1d([true, true, false], 'bool'))] as const),
]); // prettier-ignore

const cases: Record<string, () => Result> = {
  ...elementwise,
  addN: () => tf.addN([matrix(), positive(), matrix()]),
  avgPool: () => [tf.avgPool(image(), 2, 2, 'same'), ...gradients((x) => tf.avgPool(x, 2, 2, 'same'), image())],
  avgPool3d: () => [tf.avgPool3d(volume(), 2, 2, 'same'), ...gradients((x) => tf.avgPool3d(x, 2, 2, 'same'), volume())],
  batchNorm: () => tf.batchNorm(image(), tf.tensor1d([0.1, -0.2]), tf.tensor1d([1, 2]), tf.tensor1d([0, 1]), tf.tensor1d([1, 2])),
  batchToSpaceND: () => tf.batchToSpaceND(grid(4, 2, 2, 1), [2, 2], [[0, 0], [0, 0]]),
  bincount: () => tf.bincount(ints(1, 2, 1), tf.tensor1d([]), 4),
  broadcastArgs: () => tf.broadcastArgs(ints(1, 3), ints(2, 1)),
  broadcastTo: () => tf.broadcastTo(tf.tensor1d([1, 2, 3]), [2, 3]),
  cast: () => [matrix().cast('int32'), matrix().cast('bool'), truths().cast('float32')],
  clipByValue: () => tf.clipByValue(matrix(), -1, 2),
  complex: () => { const z = tf.complex(matrix(), positive()); return [tf.real(z), tf.imag(z), tf.abs(z)]; },
  concat: () => tf.concat([matrix(), positive()], 1),
  conv2d: () => [tf.conv2d(image(), grid(3, 3, 2, 4) as tf.Tensor4D, 1, 'same'), ...gradients((x, w) => tf.conv2d(x, w, 2, 'same'), image(), grid(3, 3, 2, 4))],
  conv3d: () => [tf.conv3d(volume(), grid(2, 2, 2, 1, 3) as tf.Tensor5D, 1, 'same'), ...gradients((x, w) => tf.conv3d(x, w, 1, 'same'), volume(), grid(2, 2, 2, 1, 3))],
  cropAndResize: () => tf.image.cropAndResize(image(), tf.tensor2d([[0, 0, 0.5, 0.75]]), ints(0), [3, 3]),
  cumprod: () => tf.cumprod(matrix(), 1),
  cumsum: () => tf.cumsum(matrix(), 1, true, true),
  depthToSpace: () => tf.depthToSpace(grid(1, 2, 2, 4) as tf.Tensor4D, 2, 'NHWC'),
  depthwiseConv2d: () => [tf.depthwiseConv2d(image(), grid(3, 3, 2, 2) as tf.Tensor4D, 1, 'same'), ...gradients((x, w) => tf.depthwiseConv2d(x, w, 1, 'same'), image(), grid(3, 3, 2, 2))],
  diag: () => tf.diag(tf.tensor1d([1, 2, 3])),
  dilation2d: () => [tf.dilation2d(image(), grid(2, 2, 2) as tf.Tensor3D, 1, 'same'), ...gradients((x, w) => tf.dilation2d(x, w, 1, 'same'), image(), grid(2, 2, 2))],
  einsum: () => tf.einsum('bij,jk->bik', grid(2, 3, 4), grid(4, 5)),
  eluGradient: () => gradients((x) => tf.elu(x), matrix()),
  expandDims: () => tf.expandDims(matrix(), 1),
  fft: () => { const z = tf.fft(tf.complex(grid(8), grid(8))); return [tf.real(z), tf.imag(z)]; },
  ifft: () => { const z = tf.ifft(tf.complex(grid(8), grid(8))); return [tf.real(z), tf.imag(z)]; },
  fill: () => tf.fill([2, 3], 7),
  flipLeftRight: () => tf.image.flipLeftRight(image()),
  fusedConv2d: () => tf.fused.conv2d({ x: image(), filter: grid(3, 3, 2, 4) as tf.Tensor4D, strides: 1, pad: 'same', bias: tf.tensor1d([1, 2, 3, 4]), activation: 'relu' }),
  fusedDepthwiseConv2d: () => tf.fused.depthwiseConv2d({ x: image(), filter: grid(3, 3, 2, 2) as tf.Tensor4D, strides: 1, pad: 'same', activation: 'relu' }),
  fusedMatMul: () => tf.fused.matMul({ a: matrix(), b: positive(), transposeB: true, bias: tf.tensor1d([1, -9]), activation: 'relu' }),
  floorDiv: () => tf.floorDiv(ints(7, -7, 9), ints(2, 2, -3)),
  gather: () => [tf.gather(matrix(), ints(2, 0, 2), 1), ...gradients((x) => tf.gather(x, ints(1, 0, 1)), matrix())],
  gatherBatched: () => tf.gather(matrix(), tf.tensor2d([[2, 0], [1, 1]], [2, 2], 'int32'), 1, 1),
  gatherND: () => tf.gatherND(matrix(), tf.tensor2d([[0, 2], [1, 0]], [2, 2], 'int32')),
  linspace: () => tf.linspace(0, 1, 5),
  localResponseNormalization: () => [tf.localResponseNormalization(image(), 1), ...gradients((x) => tf.localResponseNormalization(x, 1), image())],
  logicalNot: () => tf.logicalNot(truths()),
  matMul: () => [tf.matMul(matrix(), positive(), true), tf.matMul(grid(2, 2, 3), grid(1, 3, 4)), ...gradients((a, b) => tf.matMul(a, b, false, true), matrix(), positive())],
  maxPool: () => [tf.maxPool(image(), 2, 2, 'same'), ...gradients((x) => tf.maxPool(x, 2, 2, 'same'), image())],
  maxPool3d: () => [tf.maxPool3d(volume(), 2, 2, 'same'), ...gradients((x) => tf.maxPool3d(x, 2, 2, 'same'), volume())],
  mirrorPad: () => tf.mirrorPad(matrix(), [[1, 1], [0, 2]], 'reflect'),
  // All but certain: the two backends draw from different generators.
  multinomial: () => tf.multinomial(tf.tensor2d([[0, -1e9, -1e9], [-1e9, -1e9, 0]]), 4, 1),
  nonMaxSuppression: () => tf.image.nonMaxSuppression(boxes(), scores(), 3, 0.5),
  nonMaxSuppressionPadded: () => Object.values(tf.image.nonMaxSuppressionPadded(boxes(), scores(), 3, 0.5)) as tf.Tensor[],
  nonMaxSuppressionWithScore: () => Object.values(tf.image.nonMaxSuppressionWithScore(boxes(), scores(), 3, 0.5, -Infinity, 0)) as tf.Tensor[],
  oneHot: () => tf.oneHot(ints(0, 2), 3),
  pad: () => tf.pad(matrix(), [[1, 0], [0, 2]], 9),
  pow: () => tf.pow(above(), matrix()),
  prelu: () => tf.prelu(matrix(), tf.fill([2, 3], 0.1)),
  range: () => tf.range(0, 10, 3),
  reshape: () => tf.reshape(matrix(), [3, 2]),
  resizeBilinear: () => [tf.image.resizeBilinear(image(), [9, 4]), ...gradients((x) => tf.image.resizeBilinear(x, [9, 4]), image())],
  resizeNearestNeighbor: () => [tf.image.resizeNearestNeighbor(image(), [9, 4]), ...gradients((x) => tf.image.resizeNearestNeighbor(x, [9, 4]), image())],
  reverse: () => tf.reverse(matrix(), 1),
  scatterND: () => tf.scatterND(tf.tensor2d([[1], [0], [1]], [3, 1], 'int32'), tf.tensor1d([1, 2, 3]), [3]),
  slice: () => tf.slice(matrix(), [0, 1], [2, 2]),
  softmaxGradient: () => gradients((x) => tf.softmax(x), matrix()),
  spaceToBatchND: () => tf.spaceToBatchND(grid(1, 4, 4, 1), [2, 2], [[0, 0], [0, 0]]),
  sparseToDense: () => tf.sparseToDense(ints(0, 2), tf.tensor1d([5, 6]), [4], 0),
  split: () => tf.split(matrix(), [1, 2], 1),
  stack: () => tf.stack([matrix(), positive()], 1),
  stridedSlice: () => tf.stridedSlice(matrix(), [0, 0], [2, 3], [1, 2]),
  tensorScatterUpdate: () => tf.tensorScatterUpdate(tf.tensor1d([1, 2, 3]), tf.tensor2d([[2], [0]], [2, 1], 'int32'), tf.tensor1d([9, 8])),
  tile: () => [tf.tile(matrix(), [2, 1]), ...gradients((x) => tf.tile(x, [2, 1]), matrix())],
  topk: () => Object.values(tf.topk(matrix(), 2)) as tf.Tensor[],
  transpose: () => tf.transpose(grid(2, 3, 4), [2, 0, 1]),
  unique: () => Object.values(tf.unique(ints(3, 1, 3, 2))) as tf.Tensor[],
  unsortedSegmentSum: () => tf.unsortedSegmentSum(matrix(), ints(1, 1), 3),
  unstack: () => tf.unstack(matrix(), 1),
  where: () => tf.where(truths(), tf.tensor1d([1, 2, 3]), tf.tensor1d([4, 5, 6])),
}; // prettier-ignore

interface Plain {
  dtype: string;
  shape: number[];
  values: number[];
}
const plain = (results: Result): Plain[] =>
  [results].flat().map((x) => ({ dtype: x.dtype, shape: x.shape, values: Array.from(x.dataSync()) }));

/** What a case gives on a backend, and the kernels it calls there. */
async function run(
  backend: 'tensorflow' | 'cpu',
  body: () => Result,
): Promise<{ results: Plain[]; kernels: string[] }> {
  await tf.setBackend(backend);
  try {
    const { result, kernelNames } = await tf.profile(() => tf.tidy(body));
    const results = plain(result as Result);
    tf.dispose(result);
    return { results, kernels: kernelNames };
  } finally {
    await tf.setBackend('tensorflow');
  }
}

function expectEqual(found: Plain[], expected: Plain[]) {
  expect(found.map(({ dtype, shape }) => [dtype, shape])).toEqual(expected.map(({ dtype, shape }) => [dtype, shape]));
  found.forEach(({ values }, i) =>
    values.forEach((value, j) => {
      const truth = expected[i].values[j];
      // float32 sums in another order.
      if (Number.isFinite(truth)) expect(Math.abs(value - truth)).toBeLessThan(1e-4 * Math.max(1, Math.abs(truth)));
      else expect(value).toBe(truth);
    }),
  );
}

/** Strings are not carried: the engine is for numbers. */
const uncovered = ['StaticRegexReplace'];

describe('equals plain JavaScript, at once and compiled', () => {
  test.each(Object.entries(cases))('%s', async (name, body) => {
    const [ours, truth] = [await run('tensorflow', body), await run('cpu', body)];
    expectEqual(ours.results, truth.results);
    ours.kernels.forEach((kernel) => called.add(kernel));
    const f = compile(name, () => [body()].flat());
    const compiled = f();
    expectEqual(plain(compiled), truth.results);
    compiled.forEach((x) => x.dispose());
    f.dispose();
  });
});

test('every kernel registered for the backend was called', () => {
  const registered = tf.getKernelsForBackend('tensorflow').map(({ kernelName }) => kernelName);
  expect(registered.length).toBeGreaterThan(120);
  expect(registered.filter((name) => !called.has(name)).sort()).toEqual(uncovered);
  expect(() => tf.tidy(() => tf.string.staticRegexReplace(['a'], 'a', 'b'))).toThrow(
    'tensors of TF_DataType 7 cannot be made from JavaScript values',
  );
});
