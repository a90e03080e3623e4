import { UserError } from '@blockwise/errors';
import {
  attribute,
  cast,
  castAfter,
  dtypes,
  elementCount,
  isRehearsal,
  operation,
  RawTensor,
  sliceRows,
  takeRaw,
  tf,
  type AnyTensor,
} from '@blockwise/tensorflow';
import { dequantizeBlockwise, lookUp, quantizeBlockwise, scaleBlocks, type BlockwiseScheme } from './blockwise.ts';
import { dynamicMap } from './dynamic-map.ts';

/**
 * NF4 with double quantisation (QLoRA, arXiv 2305.14314, section 3), with bitsandbytes' codes: blocks of 64 neighbours share the largest of
 * their magnitudes, and each number divided by it becomes the nearest of 16 levels, two of them in a byte, the first in its upper half.
 * Double quantisation keeps these magnitudes, less their mean, as 8-bit codes in blocks of 256: 4.127 bits a number in all.
 * Letters: n elements, B = ceil(n / 64) blocks.
 */

/** Levels of the NormalFloat type: quantiles of the standard normal distribution, 0 among them (bitsandbytes' get_4bit_type). */
const levels = Float32Array.of(
  ...[-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453],
  ...[-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0],
  ...[0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224],
  ...[0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1],
);

/** Elements that share one absmax. */
export const nf4BlockSize = 64;
const nested: BlockwiseScheme = { code: dynamicMap(true), blockSize: 256 };

/** A quantised tensor. */
export interface Nf4Tensors<T extends AnyTensor = AnyTensor> {
  /** uint8 (int32 inside a compiled function), n / 2 elements. */
  readonly codes: T;
  /** float32 [B]; doubly quantised, uint8 (int32) [B] codes of dynamicMap(true). */
  readonly absmax: T;
  /** float32 [ceil(B / 256)], of doubly quantised ones. */
  readonly nestedAbsmax?: T;
  /** float32 scalar, of doubly quantised ones: the mean of all absmax. */
  readonly nestedOffset?: T;
}

/** A quantised tensor at rest; owned by the receiver. */
export type Nf4Weight = Nf4Tensors<RawTensor>;

/**
 * A tensor as NF4 codes. Needs float32 copies of a few rows at a time.
 * @param x float32 or of 16 bits, at least one dimension; borrowed
 * @param options doubleQuant: default true; name: what an error calls it
 * @throws UserError where a value is not finite
 * @returns codes are uint8 [..., inputs / 2] for x of [..., inputs]; [ceil(n / 2)] where `inputs` is odd
 */
export function quantizeNf4(x: RawTensor, { doubleQuant = true, name = 'a weight' } = {}): Nf4Weight {
  const n = elementCount(x.shape);
  const packed = new Uint8Array(Math.ceil(n / 2));
  const absmax = new Float32Array(Math.ceil(n / nf4BlockSize));
  let done = 0;
  for (const values of rowsOf(x)) {
    packBlocks(values, packed.subarray(done / 2), absmax.subarray(done / nf4BlockSize));
    done += values.length;
    if (isRehearsal()) break;
  }
  if (!absmax.every(Number.isFinite))
    throw new UserError(`${name} holds values that are not finite: the model is damaged, get it again`);
  const inputs = x.shape[x.shape.length - 1];
  const shape = inputs % 2 === 0 ? [...x.shape.slice(0, -1), inputs / 2] : [packed.length];
  const codes = RawTensor.fromBytes(packed, shape, 'uint8');
  if (doubleQuant) return { codes, ...quantizeAbsmax(absmax) };
  return { codes, absmax: RawTensor.fromBytes(new Uint8Array(absmax.buffer), [absmax.length], 'float32') };
}

/** About a million elements at a time as float32, whole blocks but for the last. */
function* rowsOf(x: RawTensor): Generator<Float32Array> {
  const [rows] = x.shape;
  const each = nf4BlockSize * Math.max(1, Math.floor(2 ** 20 / nf4BlockSize / (elementCount(x.shape) / rows)));
  for (let from = 0; from < rows; from += each) {
    const part = sliceRows(x, from, Math.min(from + each, rows));
    const values = cast(part);
    part.dispose();
    try {
      yield values.dataSync<'float32'>();
    } finally {
      // Also where the receiver stops here.
      values.dispose();
    }
  }
}

const midpoints = Float32Array.from(levels, (level, i) => (i < 15 ? Math.fround(level + levels[i + 1]) / 2 : Infinity));
/** How many midpoints lie below each 128th from -1 to 1; no two lie within a 128th. */
const belowBin = Uint8Array.from({ length: 258 }, (_, bin) => midpoints.filter((m) => m < bin / 128 - 1).length);

/** The code of a number in [-1, 1]: how many midpoints lie below it. */
function nearestLevel(x: number): number {
  const below = belowBin[((x + 1) * 128) | 0];
  return midpoints[below] < x ? below + 1 : below;
}

function packBlocks(values: Float32Array, packed: Uint8Array, absmax: Float32Array): void {
  const { fround } = Math;
  for (let start = 0; start < values.length; start += nf4BlockSize) {
    const end = Math.min(start + nf4BlockSize, values.length);
    let largest = 0;
    for (let i = start; i < end; i++) largest = Math.max(largest, Math.abs(values[i]));
    absmax[start / nf4BlockSize] = largest;
    const whole = end - start === nf4BlockSize;
    const inverse = largest > 0 ? fround(1 / largest) : 0;
    // bitsandbytes multiplies in whole blocks and divides in a shorter last one.
    const code = (i: number) =>
      nearestLevel(whole || largest === 0 ? fround(values[i] * inverse) : fround(values[i] / largest));
    for (let i = start; i < end; i += 2)
      packed[i >> 1] = (code(i) << 4) | (i + 1 < end ? code(i + 1) : nearestLevel(0));
  }
}

function quantizeAbsmax(absmax: Float32Array): Omit<Nf4Weight, 'codes'> {
  const offset = Math.fround(absmax.reduce((sum, value) => sum + value, 0) / absmax.length);
  const centred = tf.tensor1d(absmax.map((value) => value - offset));
  const { codes, absmax: largest } = quantizeBlockwise(centred, nested);
  const nestedAbsmax = takeRaw(largest, 'float32');
  centred.dispose();
  const nestedOffset = RawTensor.fromBytes(new Uint8Array(Float32Array.of(offset).buffer), [], 'float32');
  return { absmax: codes, nestedAbsmax, nestedOffset };
}

/** Both numbers that a byte of codes stands for: [256, 2]. */
const pairs = Float32Array.from({ length: 512 }, (_, i) => levels[i % 2 === 0 ? i >> 5 : (i >> 1) & 15]);

/**
 * What codes are looked up in: [256, 2] by bytes or, of large uint8 tensors, [65536, 4] by two bytes at a time, which is twice as fast but takes
 * 3 ms to make. Usable inside compiled functions; the caller's.
 */
export function nf4Table(codes: AnyTensor): tf.Tensor2D {
  return tf.tidy(() => {
    const byByte = tf.tensor2d(pairs, [256, 2]);
    const bytes = elementCount(codes.shape);
    if (!(codes instanceof RawTensor) || bytes < 2 ** 19 || bytes % 2 > 0) return byByte;
    const first = tf.tile(tf.reshape(byByte, [1, 256, 2]), [256, 1, 1]);
    const second = tf.tile(tf.reshape(byByte, [256, 1, 2]), [1, 256, 1]);
    return tf.reshape(tf.concat([first, second], 2), [65536, 4]) as tf.Tensor2D;
  });
}

/**
 * The numbers that a quantised tensor stands for. Usable inside compiled functions.
 * @returns float32 of the given shape
 * @throws RangeError where the shape has another number of elements than the codes
 */
export function dequantizeNf4({ codes, ...scales }: Nf4Tensors, shape: readonly number[]): tf.Tensor {
  return tf.tidy(() => dequantizeNf4Codes(codes, nf4Absmax(scales), shape));
}

/** The largest magnitude of each block, float32 [B]. Usable inside compiled functions. */
export function nf4Absmax({ absmax, nestedAbsmax, nestedOffset }: Omit<Nf4Tensors, 'codes'>): tf.Tensor {
  if (!nestedAbsmax || !nestedOffset) return cast(absmax);
  return tf.tidy(() => tf.add(dequantizeBlockwise(absmax, cast(nestedAbsmax), nested), cast(nestedOffset)));
}

/**
 * The numbers of whole blocks, say of 64 rows of a matrix. Usable inside compiled functions.
 * @param codes uint8 or int32, n / 2 elements
 * @param absmax float32 [B] of these blocks
 * @param table nf4Table() of these codes, or of a tensor that they are rows of; borrowed
 * @param previous inside a compiled function: what has to exist before
 * @returns float32 of `shape`, which has n elements
 * @throws RangeError where it has another number of them than the codes
 */
export function dequantizeNf4Codes(
  codes: AnyTensor,
  absmax: tf.Tensor,
  shape: readonly number[],
  table?: tf.Tensor2D,
  previous = absmax,
): tf.Tensor {
  const n = elementCount(shape);
  if (Math.ceil(n / 2) !== elementCount(codes.shape))
    throw new RangeError(`[${codes.shape}] bytes of two NF4 codes each are not the numbers of shape [${shape}]`);
  return tf.tidy(() => {
    const known = table ?? nf4Table(codes);
    const [found] = lookUp<[tf.Tensor]>(known, known.shape[0] === 256 ? castAfter(codes, previous, 'int32') : wordsOf(codes, previous)); // prettier-ignore
    const numbers = tf.reshape(found, [-1]);
    return scaleBlocks(numbers.size === n ? numbers : tf.slice(numbers, 0, n), absmax, nf4BlockSize, [...shape]);
  });
}

/** Two bytes at a time, the first the lower: int32 [bytes / 2]. */
function wordsOf(codes: AnyTensor, previous: tf.Tensor): tf.Tensor {
  const [uint8, uint16] = [dtypes.uint8.code, dtypes.uint16.code];
  const types = [attribute.type('T', uint8), attribute.type('Tshape', dtypes.int32.code)];
  const dims = tf.tensor1d([elementCount(codes.shape) / 2, 2], 'int32');
  const [twos] = operation<[RawTensor]>('Reshape', types, [codes, dims]);
  const bitcast = [attribute.type('T', uint8), attribute.type('type', uint16)];
  const [words] = operation<[RawTensor]>('Bitcast', bitcast, [twos]);
  const index = castAfter(words, previous, 'int32');
  [twos, words].forEach((raw) => raw.dispose());
  return index;
}
