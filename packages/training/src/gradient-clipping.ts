import { attribute, dtypes, operation, tf } from '@blockwise/tensorflow';

/** The sum of a gradient's squared elements. */
export function sumOfSquares(gradient: tf.Tensor): number {
  // L2Loss is sum(x^2) / 2 without a temporary of the gradient's size.
  const [half] = operation('L2Loss', [attribute.type('T', dtypes.float32.code)], [gradient]);
  const [value] = half.dataSync();
  half.dispose();
  return 2 * value;
}

/** What brings gradients of this norm down to `maxNorm`: min(1, maxNorm / (norm + 1e-6)), as torch's clip_grad_norm_; 0: no limit. */
export function clipCoefficient(norm: number, maxNorm: number): number {
  return maxNorm > 0 ? Math.min(1, maxNorm / (norm + 1e-6)) : 1;
}

/**
 * A gradient with its elements limited to [-maxValue, maxValue] (0: not), then scaled: lomo-optim's order, whose norm is that of unlimited
 * gradients. Consumes it and returns what replaces it.
 */
export function clipGradient(gradient: tf.Tensor, coefficient: number, maxValue = 0): tf.Tensor {
  if (coefficient === 1 && maxValue === 0) return gradient;
  const clipped = tf.tidy(() => {
    const limited = maxValue > 0 ? tf.clipByValue(gradient, -maxValue, maxValue) : gradient;
    return coefficient === 1 ? limited : tf.mul(limited, coefficient);
  });
  gradient.dispose();
  return clipped;
}
