import { tf } from '@blockwise/tensorflow';
import {
  affineParameters,
  asBlocks,
  blockParameters,
  checkScheme,
  codeRange,
  dequantize,
  unclampedCodes,
  type AffineParameters,
  type Bits,
  type CodeScheme,
  type WeightScheme,
} from './min-max.ts';

/**
 * Fake quantisation: values rounded to what their codes mean, still float32, so that a network learns to live with the rounding. The
 * gradient passes straight through the rounding, and is 0 where a value was clamped (arXiv 1712.05877; torch.fake_quantize_per_tensor_affine
 * and torch.fake_quantize_per_channel_affine). Usable inside compiled functions.
 */

/** Rounds to the codes of `parametersOf(x)`, through which no gradient flows. */
function straightThrough(x: tf.Tensor, bits: Bits, parametersOf: (x: tf.Tensor) => AffineParameters): tf.Tensor {
  const fake = tf.customGrad((...args) => {
    const [x, save] = args as unknown as [tf.Tensor, tf.GradSaveFunc];
    const { min, max } = codeRange(bits);
    const parameters = parametersOf(x);
    const codes = unclampedCodes(x, parameters);
    const inside = tf.cast(tf.logicalAnd(tf.greaterEqual(codes, min), tf.lessEqual(codes, max)), 'float32');
    save([inside]);
    return {
      value: dequantize(tf.clipByValue(codes, min, max), parameters),
      gradFunc: (dy, saved) => tf.mul(dy as tf.Tensor, (saved as tf.Tensor[])[0]),
    };
  });
  return fake(x);
}

/** x rounded to the codes of a given scale and zero point (broadcast against x): float32, x's shape. */
export function fakeQuantize(x: tf.Tensor, parameters: AffineParameters, bits: Bits): tf.Tensor {
  return straightThrough(x, bits, () => parameters);
}

/**
 * A weight matrix rounded to the codes of its present min-max ranges, block by block: what dequantizeWeight(quantizeWeight()) gives.
 * @param weight float32 [outputs, inputs]
 * @throws UserError where the scheme does not fit the shape
 */
export function fakeQuantizeWeight(weight: tf.Tensor, scheme: WeightScheme): tf.Tensor2D {
  checkScheme(scheme, weight.shape, 'the weight');
  const rounded = straightThrough(asBlocks(weight, scheme), scheme.bits, (blocks) =>
    blockParameters(blocks as tf.Tensor3D, scheme),
  );
  return tf.reshape(rounded, [weight.shape[0], weight.shape[1]!]) as tf.Tensor2D;
}

/** Each row (token) rounded to the codes of its own min-max range: float32 [N, H]. */
export function fakeQuantizeTokens(x: tf.Tensor2D, scheme: CodeScheme): tf.Tensor2D {
  return straightThrough(x, scheme.bits, (x) =>
    affineParameters(tf.min(x, -1, true), tf.max(x, -1, true), scheme),
  ) as tf.Tensor2D;
}
