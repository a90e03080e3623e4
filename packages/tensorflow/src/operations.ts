import * as tf from '@tensorflow/tfjs-core';
import { existsSync, readFileSync } from 'node:fs';
import { attribute, type Attribute } from './attributes.ts';
import { dtypes, elementCount, type DType } from './dtypes.ts';
import { executeOperation } from './execute-operation.ts';
import { idOfAny, RawTensor, takeFloat32, toRaw, wrapAny, type AnyTensor } from './raw-tensor.ts';
import { currentRuntime, isRehearsal } from './current-runtime.ts';

/** Operations of TensorFlow that TensorFlow.js lacks or reaches by a slower way. All work at once and inside compiled functions. */

const T = attribute.type('T', dtypes.float32.code);

/** Runs any TensorFlow operation; results of types that TensorFlow.js lacks are RawTensors. Inputs are borrowed; no gradient is recorded. */
export function operation<Outputs extends AnyTensor[] = tf.Tensor[]>(
  name: string,
  attributes: readonly Attribute[],
  inputs: readonly AnyTensor[],
): Outputs {
  return executeOperation(name, attributes, inputs.map(idOfAny)).map(wrapAny) as Outputs;
}

const randomTypes = Object.entries({ dtype: 'float32', T: 'int32', Tseed: 'int32' } as const).map(([name, dtype]) =>
  attribute.type(name, dtypes[dtype].code),
);

/**
 * Random float32 numbers that are a function of the seeds and of nothing else: uniform in [0, 1), or normal with mean 0 and deviation 1.
 * @param seeds int32 [2]; borrowed
 */
export function statelessRandom(kind: 'Uniform' | 'Normal', shape: readonly number[], seeds: tf.Tensor): tf.Tensor {
  return tf.tidy(() => operation(`StatelessRandom${kind}`, randomTypes, [tf.tensor1d([...shape], 'int32'), seeds])[0]);
}

/** Whether all elements of a tensor of any float type are numbers: no NaN, no infinity. Takes a byte for each. (A rehearsal's always are.) */
export function allFinite(x: AnyTensor): boolean {
  const [each] = operation('IsFinite', [attribute.type('T', dtypes[x.dtype as DType].code)], [x]);
  const all = tf.tidy(() => tf.all(each));
  const [value] = all.dataSync();
  tf.dispose([each, all]);
  return isRehearsal() || value === 1;
}

/** The product of two float32 matrices, each transposed on request; no gradient is recorded. */
export function matMul2d(a: tf.Tensor, b: tf.Tensor, transposeA = false, transposeB = false): tf.Tensor2D {
  const attributes = [T, attribute.bool('transpose_a', transposeA), attribute.bool('transpose_b', transposeB)];
  return operation('MatMul', attributes, [a, b])[0] as tf.Tensor2D;
}

/**
 * As matMul2d(), with operands in bfloat16 (float32 ones are rounded first), sums in float32, and the result rounded to bfloat16: about twice
 * as fast on a CPU with instructions for it (hasBfloat16Products()), and many times slower on one without.
 * @returns bfloat16 [N, M]
 */
export function matMulBfloat16(a: AnyTensor, b: AnyTensor, transposeA = false, transposeB = false): RawTensor {
  const transposed = [attribute.bool('transpose_a', transposeA), attribute.bool('transpose_b', transposeB)];
  return productInBfloat16('MatMul', transposed, [a, b]);
}

/** dy^T x of dy [N, M] and x [N, K], [M, K]: float32; of bfloat16 factors bfloat16, as matMulBfloat16() multiplies. */
export function multiplyFactors(dy: AnyTensor, x: AnyTensor): AnyTensor {
  return dy instanceof RawTensor ? matMulBfloat16(dy, x, true) : matMul2d(dy, x as tf.Tensor, true);
}

/** The sum of each column, float32 [N, M] -> [M], as a product with ones: kernels are fast at sums along rows alone. No gradient is recorded. */
export function columnSums(x: tf.Tensor): tf.Tensor1D {
  const [N, M] = x.shape;
  return tf.tidy(() => tf.reshape(matMul2d(tf.ones([1, N]), x), [M]));
}

/**
 * Adds each of `rows`, float32 [n, ...], to the row of `x`, float32 [N, ...], that `indices`, int32 [n], gives: in x's own buffer, whoever else looks
 * at it (InplaceAdd). Consumes x, borrows the others; no gradient is recorded.
 */
export function addRowsInPlace(x: tf.Tensor, indices: tf.Tensor1D, rows: tf.Tensor): tf.Tensor {
  const [sum] = operation('InplaceAdd', [T], [x, indices, rows]);
  x.dispose();
  return sum;
}

/** Products of the last two axes, float32, each transposed on request; the leading axes are broadcast. No gradient is recorded. */
export function batchMatMul(a: tf.Tensor, b: tf.Tensor, transposeA = false, transposeB = false): tf.Tensor {
  const attributes = [T, attribute.bool('adj_x', transposeA), attribute.bool('adj_y', transposeB)];
  return operation('BatchMatMulV2', attributes, [a, b])[0];
}

/** batchMatMul() with operands and result rounded to bfloat16, sums in float32: see matMulBfloat16(). */
export function batchMatMulBfloat16(a: tf.Tensor, b: tf.Tensor, transposeA = false, transposeB = false): tf.Tensor {
  const transposed = [attribute.bool('adj_x', transposeA), attribute.bool('adj_y', transposeB)];
  return takeFloat32(productInBfloat16('BatchMatMulV2', transposed, [a, b]));
}

/** Softmax over the last axis of a float32 tensor; no gradient is recorded. */
export function softmax(x: tf.Tensor): tf.Tensor {
  return operation('Softmax', [T], [x])[0];
}

/** softmax() with its input and result rounded to bfloat16, sums in float32. */
export function softmaxBfloat16(x: tf.Tensor): tf.Tensor {
  const rounded = toRaw(x, 'bfloat16');
  const [result] = operation<[RawTensor]>('Softmax', [attribute.type('T', dtypes.bfloat16.code)], [rounded]);
  rounded.dispose();
  return takeFloat32(result);
}

/** A product of two operands in bfloat16, of which float32 ones are rounded. (TensorFlow makes equal casts of a compiled function once.) */
function productInBfloat16(name: string, transposed: Attribute[], given: readonly AnyTensor[]): RawTensor {
  const operands = given.map((x) => (x instanceof RawTensor ? x : toRaw(x, 'bfloat16')));
  const T = attribute.type('T', dtypes.bfloat16.code);
  const [product] = operation<[RawTensor]>(name, [T, ...transposed], operands);
  operands.forEach((x, i) => x !== given[i] && x.dispose());
  return product;
}

/** Whether this machine multiplies bfloat16 faster than float32: a GPU does; a CPU by AVX512_BF16 or AMX (told on Linux alone). */
export function hasBfloat16Products(device: 'cpu' | 'gpu' = 'cpu'): boolean {
  return device === 'gpu' || cpuFlags().has('avx512_bf16') || cpuFlags().has('amx_bf16');
}

/** What the CPU can do, as Linux names it; elsewhere nothing. */
function cpuFlags(): ReadonlySet<string> {
  if (knownFlags) return knownFlags;
  const description = existsSync('/proc/cpuinfo') ? readFileSync('/proc/cpuinfo', 'utf8') : '';
  return (knownFlags = new Set(/^flags\s*:(.*)$/m.exec(description)?.[1].split(' ')));
}
let knownFlags: ReadonlySet<string> | undefined;

/**
 * Whether productInTerms() is there and takes less time than a product in float32: inside a compiled function, on a CPU with AMX (four to five
 * times float32's rate), for as many rows and weights as make up for taking x apart and adding up; a larger weight's packed copy would show in
 * the peak of memory.
 */
export function isFasterInTerms(x: tf.Tensor, weight: RawTensor): boolean {
  const runtime = currentRuntime();
  const [rows, elements] = [x.shape[0], elementCount(weight.shape)];
  const isWorthIt = weight.dtype === 'bfloat16' && rows >= 256 && elements >= 2 ** 20 && elements <= 2 ** 24;
  return isWorthIt && runtime.isTracing && runtime.options.device === 'cpu' && cpuFlags().has('amx_bf16');
}

/**
 * x W^T, or x W, of float32 x and bfloat16 W, as exact as in float32: x is the sum of three bfloat16 values of 8 of its 24 bits each, whose
 * products with W are exact too, and are summed in float32. Only inside a compiled function; no gradient is recorded.
 * @param x float32 [N, K]
 * @param weight bfloat16 [M, K] where it is transposed, else [K, M]
 * @returns float32 [N, M]
 */
export function productInTerms(x: tf.Tensor, weight: RawTensor, transposed: boolean): tf.Tensor2D {
  return tf.tidy(() => {
    // No kernel holds this operation, so that x is written before the kernel of its terms; else each of the three would make x anew.
    const written = operation('StopGradient', [T], [x])[0];
    const high = upperHalf(written);
    const rest = tf.sub(written, high);
    const middle = upperHalf(rest);
    const [a, b, c] = [high, middle, tf.sub(rest, middle)].map((term) => {
      const operand = toRaw(term, 'bfloat16');
      const product = xlaProduct(operand, weight, transposed);
      operand.dispose();
      return product;
    });
    return tf.add(a, tf.add(b, c));
  });
}

/** The bfloat16 value that the upper half of each float32 is: x rounded towards zero. */
function upperHalf(x: tf.Tensor): tf.Tensor {
  const { float32, int32 } = dtypes;
  const bits = bitcast(x, float32.code, int32.code);
  const upper = operation('BitwiseAnd', [attribute.type('T', int32.code)], [bits, tf.scalar(-0x10000, 'int32')])[0];
  return bitcast(upper, int32.code, float32.code);
}

function bitcast(x: tf.Tensor, from: number, to: number): tf.Tensor {
  return operation('Bitcast', [attribute.type('T', from), attribute.type('type', to)], [x])[0];
}

/** A product of bfloat16 matrices with a float32 result, which only XLA makes: of TensorFlow's own, results are rounded to bfloat16. */
function xlaProduct(a: RawTensor, b: RawTensor, transposed: boolean): tf.Tensor {
  // xla.DotDimensionNumbers: lhs_contracting_dimensions (field 1) and rhs_contracting_dimensions (field 2), a packed number each.
  const dimensions = String.fromCharCode(0x0a, 1, 1, 0x12, 1, transposed ? 1 : 0);
  const { bfloat16, float32 } = dtypes;
  const attributes = [
    attribute.type('LhsT', bfloat16.code),
    attribute.type('RhsT', bfloat16.code),
    attribute.string('dimension_numbers', dimensions),
    attribute.string('precision_config', ''),
    attribute.type('preferred_element_type', float32.code),
  ];
  return operation('XlaDotV2', attributes, [a, b])[0];
}

/**
 * x W^T, as matMul2d(x, weight, false, true) but by the fastest way on a CPU. Where a side of the product is at most 768, oneDNN's gemm does not
 * pack its operands, and then long rows of W, or rows a multiple of 2 KiB apart, or many rows met by few of x, evict each other from the cache; its
 * kernels for batches always pack (docs/architecture.md has the times). No gradient is recorded.
 * @param x float32 [N, K]
 * @param weight float32 [M, K]
 * @returns float32 [N, M]
 */
export function timesTransposed(x: tf.Tensor, weight: tf.Tensor): tf.Tensor2D {
  const [N, K] = x.shape;
  const M = weight.shape[0];
  const evicts = K % 512 === 0 || K > 4096 || (N <= 256 && M >= 8192);
  const isUnpacked = N >= 16 && Math.min(N, M) <= 768;
  const multiply = isUnpacked && evicts && currentRuntime().options.device === 'cpu' ? batchMatMul : matMul2d;
  return multiply(x, weight, false, true) as tf.Tensor2D;
}

/**
 * Cross-entropy of each row, max(z) + log(sum(exp(z - max(z)))) - z_label, and its gradient, softmax(z) with 1 taken off at the label. In cheap
 * operations, which become one kernel: TensorFlow's own operation for this takes ten times as long. No gradient is recorded.
 * @param logits z: float32 [N, classes]
 * @param labels int32 [N], each in [0, classes)
 * @returns loss float32 [N] in nats; gradient float32 [N, classes] of each row's loss
 */
export function sparseSoftmaxCrossEntropy(logits: tf.Tensor2D, labels: tf.Tensor1D): [tf.Tensor1D, tf.Tensor2D] {
  const int32 = dtypes.int32.code;
  const range = (count: number) => {
    const bounds = [0, count, 1].map((value) => tf.scalar(value, 'int32'));
    return operation('Range', [attribute.type('Tidx', int32)], bounds)[0];
  };
  return tf.tidy(() => {
    const [N, classes] = logits.shape;
    const gather = [attribute.type('Tparams', dtypes.float32.code), attribute.type('Tindices', int32)];
    const [atLabels] = operation('GatherNd', gather, [logits, tf.stack([range(N), labels], 1)]);
    const top = largestOfRows(logits);
    const powers = tf.exp(tf.sub(logits, top));
    const sums = tf.sum(powers, 1, true);
    const losses = tf.sub(tf.reshape(tf.add(top, tf.log(sums)), [N]), atLabels) as tf.Tensor1D;
    const probabilities = tf.mul(powers, tf.reciprocal(sums));
    const isLabel = tf.equal(tf.expandDims(labels, 1), range(classes));
    return [losses, tf.where(isLabel, tf.sub(probabilities, 1), probabilities) as tf.Tensor2D];
  });
}

/**
 * The largest value of each row, float32 [N, classes] -> [N, 1], found among whole numbers in the same order: a kernel compares those side by
 * side, floats (because of NaN) one after the other, which takes four times as long.
 */
function largestOfRows(x: tf.Tensor2D): tf.Tensor {
  const [float32, int32] = [dtypes.float32.code, dtypes.int32.code];
  const onBits = (name: string, a: tf.Tensor, b: tf.Tensor) => operation(name, [attribute.type('T', int32)], [a, b])[0];
  // Of negative floats the larger magnitude is the smaller value: all bits but the sign are turned. Twice, and they are as they were.
  const inOrder = (i: tf.Tensor) => {
    const sign = onBits('RightShift', i, tf.scalar(31, 'int32'));
    return onBits('BitwiseXor', i, onBits('BitwiseAnd', sign, tf.scalar(0x7fffffff, 'int32')));
  };
  return bitcast(inOrder(tf.max(inOrder(bitcast(x, float32, int32)), 1, true)), int32, float32);
}

/** How attention computes: products of the last two axes, and softmax over the last. */
export interface Arithmetic {
  readonly multiply: typeof batchMatMul;
  readonly softmax: typeof softmax;
}

/** In float32 throughout. */
export const float32Arithmetic: Arithmetic = { multiply: batchMatMul, softmax };
/** Operands and results rounded to bfloat16, sums in float32. */
export const bfloat16Arithmetic: Arithmetic = { multiply: batchMatMulBfloat16, softmax: softmaxBfloat16 };
