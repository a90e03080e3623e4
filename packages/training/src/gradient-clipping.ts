import { attribute, cast, dtypes, operation, tf, type AnyTensor } from '@blockwise/tensorflow';

/** The sum of a gradient's squared elements. */
export function sumOfSquares(gradient: AnyTensor): number {
  const values = cast(gradient);
  // L2Loss is sum(x^2) / 2 without a temporary of the gradient's size.
  const [half] = operation('L2Loss', [attribute.type('T', dtypes.float32.code)], [values]);
  const [value] = half.dataSync();
  tf.dispose([half, values]);
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
export function clipGradient(gradient: AnyTensor, coefficient: number, maxValue = 0): AnyTensor {
  if (coefficient === 1 && maxValue === 0) return gradient;
  const clipped = tf.tidy(() => {
    const values = cast(gradient);
    const limited = maxValue > 0 ? tf.clipByValue(values, -maxValue, maxValue) : values;
    return coefficient === 1 ? limited : tf.mul(limited, coefficient);
  });
  gradient.dispose();
  return clipped;
}
