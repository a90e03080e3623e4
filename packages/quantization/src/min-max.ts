import { UserError } from '@blockwise/errors';
import { allFinite, tf, toRaw, type RawTensor } from '@blockwise/tensorflow';

/**
 * Min-max quantisation: real values x stand as whole codes q = clamp(round(x / scale) + zeroPoint), which mean (q - zeroPoint) scale. Scale
 * and zero point come from the smallest and the largest value (torch.ao.quantization's MinMaxObserver and PerChannelMinMaxObserver).
 * Everything here is TensorFlow.js code: it runs at once and inside compiled functions.
 */

/** Codes of so many bits, signed: [-128, 127] or [-8, 7]. */
export type Bits = 8 | 4;

/** How values become codes. */
export interface CodeScheme {
  bits: Bits;
  /** The range is [-m, m] and the zero point 0; else it is [min, max], widened to contain 0, and zeros stay exact. */
  symmetric: boolean;
}

/** How a weight matrix [outputs, inputs] becomes codes. */
export interface WeightScheme extends CodeScheme {
  /** What shares one scale: the whole matrix, an output channel (row), or `groupSize` neighbours of a row. */
  granularity: 'tensor' | 'channel' | 'group';
  /** Divides the number of inputs. Of granularity `group` alone. */
  groupSize?: number;
}

/** Scale and zero point, float32, broadcastable against what they belong to. */
export interface AffineParameters {
  readonly scale: tf.Tensor;
  /** A whole number in the range of the codes. Absent: 0. */
  readonly zeroPoint?: tf.Tensor;
}

/** A weight matrix at rest; owned by the receiver. */
export interface QuantizedWeight {
  /** int8 [outputs, inputs], or uint8 [outputs, inputs / 2] with two 4-bit codes in a byte: see packInt4(). */
  readonly codes: RawTensor;
  /** float32 [R, G]: [1, 1], [outputs, 1] or [outputs, groups of a row]. */
  readonly scale: RawTensor;
  /** int8 [R, G]; none where the scheme is symmetric. */
  readonly zeroPoint?: RawTensor;
}

/** The smallest and the largest code. */
export function codeRange(bits: Bits): { min: number; max: number } {
  return { min: -(2 ** (bits - 1)), max: 2 ** (bits - 1) - 1 };
}

/** The smallest scale: torch.finfo(torch.float32).eps. */
const smallestScale = 2 ** -23;

/**
 * Scale and zero point of values between `min` and `max` (float32, any shape): symmetric, scale = max(|min|, |max|) / ((qmax - qmin) / 2);
 * else scale = (max - min) / (qmax - qmin) and zeroPoint = qmin - round(min / scale), with 0 inside the range
 * (torch/ao/quantization/observer.py, `_calculate_qparams`).
 */
export function affineParameters(min: tf.Tensor, max: tf.Tensor, { bits, symmetric }: CodeScheme): AffineParameters {
  const range = codeRange(bits);
  const steps = range.max - range.min;
  const low = tf.minimum(min, 0);
  const high = tf.maximum(max, 0);
  const atLeast = (scale: tf.Tensor) => tf.maximum(scale, smallestScale);
  if (symmetric) return { scale: atLeast(tf.div(tf.maximum(tf.neg(low), high), steps / 2)) };
  const scale = atLeast(tf.div(tf.sub(high, low), steps));
  const zeroPoint = tf.clipByValue(tf.sub(range.min, tf.round(tf.div(low, scale))), range.min, range.max);
  return { scale, zeroPoint };
}

/** round(x / scale) + zeroPoint before clamping; halves go to the even number, and 1 / scale is rounded first, as in torch. */
export function unclampedCodes(x: tf.Tensor, { scale, zeroPoint }: AffineParameters): tf.Tensor {
  const rounded = tf.round(tf.mul(x, tf.div(1, scale)));
  return zeroPoint ? tf.add(rounded, zeroPoint) : rounded;
}

/** Codes of x as float32 whole numbers, in x's shape. */
export function quantize(x: tf.Tensor, parameters: AffineParameters, bits: Bits): tf.Tensor {
  const { min, max } = codeRange(bits);
  return tf.clipByValue(unclampedCodes(x, parameters), min, max);
}

/** (codes - zeroPoint) scale, float32; codes are float32 whole numbers. */
export function dequantize(codes: tf.Tensor, { scale, zeroPoint }: AffineParameters): tf.Tensor {
  return tf.mul(zeroPoint ? tf.sub(codes, zeroPoint) : codes, scale);
}

/** What is wrong with how values are to become codes, a sentence each; nothing where all is well. */
export function codeProblems({ bits, symmetric }: CodeScheme): string[] {
  const problems: string[] = [];
  if (bits !== 8 && bits !== 4) problems.push(`bits: found ${bits}, expected 8 or 4`);
  if (typeof symmetric !== 'boolean') problems.push(`symmetric: found ${symmetric}, expected true or false`);
  return problems;
}

const granularities: readonly WeightScheme['granularity'][] = ['tensor', 'channel', 'group'];

/** What is wrong with a scheme for a matrix of these shapes, a sentence each; nothing where it fits. */
export function schemeProblems(scheme: WeightScheme, [outputs, inputs]: readonly number[], name: string): string[] {
  const { bits, granularity, groupSize } = scheme;
  const problems = codeProblems(scheme);
  if (!granularities.includes(granularity))
    problems.push(`granularity: found ${granularity}, expected ${granularities.join(', ')}`);
  if (granularity === 'group' && !(Number.isInteger(groupSize) && groupSize! > 0 && inputs % groupSize! === 0))
    problems.push(`groupSize: found ${groupSize}, expected a divisor of the ${inputs} inputs of ${name}`);
  if (granularity !== 'group' && groupSize !== undefined)
    problems.push(`groupSize: found ${groupSize}, expected none with granularity ${granularity}`);
  if (bits === 4 && inputs % 2 !== 0)
    problems.push(`bits: 4-bit codes are packed in pairs; ${name} is [${outputs}, ${inputs}]: use 8 bits`);
  return problems;
}

/** @throws UserError with all of schemeProblems() */
export function checkScheme(scheme: WeightScheme, shape: readonly number[], name: string): void {
  const problems = schemeProblems(scheme, shape, name);
  if (problems.length > 0) throw UserError.of('quantisation', problems);
}

/** A matrix [outputs, inputs] as [R, G, elements of a block], each block with one scale. */
export function asBlocks(weight: tf.Tensor, { granularity, groupSize }: WeightScheme): tf.Tensor3D {
  const [outputs, inputs] = weight.shape;
  if (granularity === 'tensor') return tf.reshape(weight, [1, 1, outputs * inputs]);
  return tf.reshape(weight, [outputs, granularity === 'group' ? inputs / groupSize! : 1, -1]);
}

/** Min-max scale and zero point of each block, [R, G, 1]. */
export function blockParameters(blocks: tf.Tensor3D, scheme: CodeScheme): AffineParameters {
  return affineParameters(tf.min(blocks, -1, true), tf.max(blocks, -1, true), scheme);
}

/**
 * A weight matrix as codes of 8 or 4 bits with the min-max scales of its blocks.
 * @param weight float32 [outputs, inputs], borrowed
 * @param name what an error calls it
 * @throws UserError where the scheme does not fit the shape, and where a value, or the range of a block, is not finite
 */
export function quantizeWeight(weight: tf.Tensor2D, scheme: WeightScheme, name = 'the weight'): QuantizedWeight {
  checkScheme(scheme, weight.shape, name);
  const raw: RawTensor[] = [];
  tf.tidy(() => {
    const blocks = asBlocks(weight, scheme);
    const { scale, zeroPoint } = blockParameters(blocks, scheme);
    if (!allFinite(scale))
      throw new UserError(`${name} holds values, or a range of values, that are not finite: the model is damaged, get it again`); // prettier-ignore
    const codes = tf.reshape(quantize(blocks, { scale, zeroPoint }, scheme.bits), weight.shape);
    raw.push(scheme.bits === 4 ? toRaw(packInt4(codes), 'uint8') : toRaw(codes, 'int8'));
    raw.push(toRaw(tf.squeeze(scale, [2]), 'float32'));
    if (zeroPoint) raw.push(toRaw(tf.squeeze(zeroPoint, [2]), 'int8'));
  });
  const [codes, scale, zeroPoint] = raw;
  return { codes, scale, zeroPoint };
}

/**
 * The matrix that quantizeWeight()'s parts mean: float32 [outputs, inputs].
 * @param codes whole numbers as they stand at rest, int32 or float32: [outputs, inputs], or [outputs, inputs / 2] for 4 bits
 * @param scale float32 [R, G]; the granularity shows in its shape
 * @param zeroPoint whole numbers [R, G], int32 or float32
 */
export function dequantizeWeight(codes: tf.Tensor, bits: Bits, scale: tf.Tensor, zeroPoint?: tf.Tensor): tf.Tensor2D {
  const single = bits === 4 ? unpackInt4(codes) : tf.cast(codes, 'float32');
  const [R, G] = scale.shape;
  const perBlock = (values: tf.Tensor) => tf.reshape(tf.cast(values, 'float32'), [R, G!, 1]);
  const values = dequantize(tf.reshape(single, [R, G!, -1]), {
    scale: perBlock(scale),
    zeroPoint: zeroPoint && perBlock(zeroPoint),
  });
  return tf.reshape(values, [single.shape[0], single.shape[1]!]);
}

/**
 * Two codes of [-8, 7] in one byte of [0, 255], as float32: 8 is added to each; the even column is the lower half.
 * @param codes float32 whole numbers [outputs, inputs], inputs even
 * @returns float32 [outputs, inputs / 2]
 */
export function packInt4(codes: tf.Tensor): tf.Tensor {
  const [outputs, inputs] = codes.shape;
  const pairs = tf.reshape(tf.add(codes, 8), [outputs, inputs! / 2, 2]);
  return tf.sum(tf.mul(pairs, tf.tensor1d([1, 16])), -1);
}

/** The codes that packInt4() put into `bytes` (int32 or float32): float32 [outputs, inputs]. */
export function unpackInt4(bytes: tf.Tensor): tf.Tensor {
  const values = tf.cast(bytes, 'float32');
  const high = tf.floor(tf.mul(values, 1 / 16));
  const low = tf.sub(values, tf.mul(high, 16));
  return tf.sub(tf.reshape(tf.stack([low, high], 2), [bytes.shape[0], 2 * bytes.shape[1]!]), 8);
}
