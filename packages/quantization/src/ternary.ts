import { tf } from '@blockwise/tensorflow';

/**
 * BitNet b1.58 (arXiv 2402.17764, section 2): weights of -1, 0 and 1 times the mean of their magnitudes, activations of 8 bits with each
 * token's largest magnitude as range. Formulas, layout and straight-through gradients are those of transformers' integrations/bitnet.py.
 * Usable inside compiled functions.
 */

/** The smallest divisor, so that zeros stay zeros. */
const smallest = 1e-5;

/** The function in the forward run, the identity in the backward run. */
function straightThrough(x: tf.Tensor, f: (x: tf.Tensor) => tf.Tensor): tf.Tensor {
  const through = tf.customGrad((...args) => ({ value: f((args as unknown as [tf.Tensor])[0]), gradFunc: (dy) => dy }));
  return through(x);
}

/**
 * A weight matrix as ternary codes and the factor that made them: codes = clamp(round(factor W), -1, 1), factor = 1 / mean|W|.
 * @param weight float32, any shape
 * @returns codes float32 of -1, 0, 1; factor float32 scalar; W is about codes / factor
 */
export function ternaryCodes(weight: tf.Tensor): { codes: tf.Tensor; factor: tf.Tensor } {
  const factor = tf.div(1, tf.maximum(tf.mean(tf.abs(weight)), smallest));
  return { codes: tf.clipByValue(tf.round(tf.mul(weight, factor)), -1, 1), factor };
}

/** The weight that its ternary codes mean: float32. Its gradient is handed on unchanged (WeightQuant). */
export function fakeQuantizeTernary(weight: tf.Tensor): tf.Tensor2D {
  return straightThrough(weight, (weight) => {
    const { codes, factor } = ternaryCodes(weight);
    return tf.div(codes, factor);
  }) as tf.Tensor2D;
}

/**
 * Each row (token) rounded to 255 steps of its largest magnitude: clamp(round(f x), -128, 127) / f, f = 127 / max|x|. Its gradient is handed
 * on unchanged (ActQuant).
 * @param x float32 [N, H]
 */
export function fakeQuantizeAbsmax(x: tf.Tensor2D): tf.Tensor2D {
  return straightThrough(x, (x) => {
    const factor = tf.div(127, tf.maximum(tf.max(tf.abs(x), -1, true), smallest));
    return tf.div(tf.clipByValue(tf.round(tf.mul(x, factor)), -128, 127), factor);
  }) as tf.Tensor2D;
}

/** Ternary codes in a byte. */
const perByte = 4;

/**
 * Four ternary codes in one byte, 2 bits each, as float32 of [0, 255]: byte r holds the rows r, r + P, r + 2P, r + 3P from its lowest bits
 * up, P = ceil(rows / 4), and -1, 0, 1 as 0, 1, 2 (pack_weights).
 * @param codes float32 [rows, columns]
 * @returns float32 [P, columns]
 */
export function packTernary(codes: tf.Tensor2D): tf.Tensor2D {
  const packedRows = Math.ceil(codes.shape[0] / perByte);
  const padded = tf.pad(tf.add(codes, 1) as tf.Tensor2D, [
    [0, packedRows * perByte - codes.shape[0]],
    [0, 0],
  ]);
  const quarters = tf.split(padded, perByte, 0);
  return quarters.reduce((sum, quarter, i) => tf.add(sum, tf.mul(quarter, perByte ** i))) as tf.Tensor2D;
}

/**
 * The codes in packTernary()'s bytes: float32 [rows, columns] of -1, 0, 1 (unpack_weights, less the rows that fill up).
 * @param bytes int32 or float32 [P, columns]
 * @param rows default 4 P
 */
export function unpackTernary(bytes: tf.Tensor, rows = perByte * bytes.shape[0]): tf.Tensor2D {
  let rest: tf.Tensor = tf.cast(bytes, 'float32');
  const quarters = Array.from({ length: perByte }, () => {
    const above = tf.floor(tf.mul(rest, 1 / perByte));
    const quarter = tf.sub(rest, tf.mul(above, perByte));
    rest = above;
    return quarter;
  });
  const all = tf.sub(tf.concat(quarters, 0), 1) as tf.Tensor2D;
  return rows === all.shape[0] ? all : tf.slice(all, [0, 0], [rows, all.shape[1]]);
}
