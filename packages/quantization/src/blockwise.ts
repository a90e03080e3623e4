import {
  attribute,
  cast,
  dtypes,
  elementCount,
  operation,
  RawTensor,
  tf,
  type AnyTensor,
  type DType,
} from '@blockwise/tensorflow';
import { nearestCodes, tableSize } from './dynamic-map.ts';

/**
 * Block-wise 8-bit quantisation (arXiv 2110.02861, section 2.1) with the codes of bitsandbytes' CPU kernels: neighbours in row-major order
 * share the largest of their magnitudes, and each number divided by it stands as the index of the nearest number of a map. The last
 * block may be shorter. Letters: n elements, B = ceil(n / blockSize) blocks.
 */

export interface BlockwiseScheme {
  /** The 256 numbers that codes stand for, ascending, in [-1, 1]: dynamicMap(). */
  code: Float32Array;
  /** Default 256. */
  blockSize?: number;
}

/** Quantised numbers; owned by the receiver. */
export interface BlockwiseCodes {
  /** uint8, in the shape of what was quantised. */
  readonly codes: RawTensor;
  /** float32 [B] */
  readonly absmax: tf.Tensor1D;
}

/**
 * The table by which quantizeBlockwise() finds codes, uint8 [65536]; the caller's. Compiled functions need it as an input (a constant of that
 * size would be copied into them); elsewhere it is made where it is missing.
 */
export function codeTable(code: Float32Array): RawTensor {
  return RawTensor.fromBytes(nearestCodes(code), [tableSize], 'uint8');
}

/**
 * Numbers of any floating type as 8-bit codes. Blocks of zeros have absmax 0 and code 0, whatever code 0 stands for.
 * @param x borrowed; finite
 * @param table of the scheme's map: codeTable(); borrowed
 */
export function quantizeBlockwise(x: AnyTensor, scheme: BlockwiseScheme, table?: AnyTensor): BlockwiseCodes {
  const { code, blockSize = 256 } = scheme;
  const [index, absmax] = tf.tidy(() => {
    const blocks = inBlocks(cast(x), blockSize);
    const absmax = tf.abs(tf.maximum(tf.max(blocks, 1), tf.neg(tf.min(blocks, 1))));
    const perBlock = (values: tf.Tensor) => tf.reshape(values, [-1, 1]);
    // Of a block of zeros, 0 instead of 1: it ends at the table's first entry.
    const middle = tf.cast(tf.greater(absmax, 0), 'float32');
    const upward = tf.add(tf.mul(blocks, perBlock(tf.divNoNan(1, absmax))), perBlock(middle));
    const index = tf.cast(tf.add(tf.mul(upward, (tableSize - 1) / 2), 0.5), 'int32');
    return [outOfBlocks(index, [...x.shape]), absmax as tf.Tensor1D];
  });
  const own = table ? undefined : codeTable(code);
  const [codes] = lookUp<[RawTensor]>((table ?? own)!, index);
  index.dispose();
  own?.dispose();
  return { codes, absmax };
}

/**
 * The numbers that codes stand for: float32 in the codes' shape. Usable inside compiled functions.
 * @param codes uint8 or int32, n elements
 * @param absmax float32 [B]
 */
export function dequantizeBlockwise(codes: AnyTensor, absmax: tf.Tensor, scheme: BlockwiseScheme): tf.Tensor {
  return tf.tidy(() => {
    const [values] = lookUp<[tf.Tensor]>(tf.tensor1d(scheme.code), cast(codes, 'int32'));
    return scaleBlocks(values, absmax, scheme.blockSize ?? 256, [...codes.shape]);
  });
}

/** n numbers, each times its block's factor, in a new shape of n elements. */
export function scaleBlocks(values: tf.Tensor, factors: tf.Tensor, blockSize: number, shape: number[]): tf.Tensor {
  return outOfBlocks(tf.mul(inBlocks(values, blockSize), tf.reshape(factors, [-1, 1])), shape);
}

/** [B, blockSize], the last block filled up with zeros. */
function inBlocks(x: tf.Tensor, blockSize: number): tf.Tensor2D {
  const missing = (blockSize - (x.size % blockSize)) % blockSize;
  const flat = tf.reshape(x, [x.size]);
  return tf.reshape(missing === 0 ? flat : tf.pad(flat, [[0, missing]]), [-1, blockSize]);
}

/** The first elements of blocks in a shape of their own. */
function outOfBlocks(blocks: tf.Tensor, shape: number[]): tf.Tensor {
  const n = elementCount(shape);
  return tf.reshape(blocks.size === n ? blocks : tf.slice(tf.reshape(blocks, [blocks.size]), 0, n), shape);
}

/**
 * Rows of a table, [size, ...], by their int32 indices: of the indices' shape, and a row's. GatherNd takes 40 ms for ten million numbers on
 * two cores, GatherV2, which TensorFlow.js's gather() is, 100, a binary search (LowerBound) 750.
 */
export function lookUp<Found extends [AnyTensor]>(table: AnyTensor, index: tf.Tensor): Found {
  const types = [
    attribute.type('Tparams', dtypes[table.dtype as DType].code),
    attribute.type('Tindices', dtypes.int32.code),
  ];
  const indices = tf.reshape(index, [...index.shape, 1]);
  const found = operation<Found>('GatherNd', types, [table, indices]);
  indices.dispose();
  return found;
}
