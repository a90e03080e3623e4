import { tf } from '@blockwise/tensorflow';
import type { Gradient } from './stage-walk.ts';

/** The Euclidean norm over all gradients, summed in float64 from per-tensor sums of squares. */
export function gradientNorm(gradients: readonly Gradient[]): number {
  let squares = 0;
  for (const [, gradient] of gradients) squares += tf.tidy(() => tf.sum(tf.square(gradient)).dataSync()[0]);
  return Math.sqrt(squares);
}

/**
 * Scales gradients so that their norm is at most `maxNorm`: coefficient min(1, maxNorm / (norm + 1e-6)), torch's clip_grad_norm_.
 * Consumes the gradients and returns what replaces them.
 */
export function clipGradientNorm(gradients: readonly Gradient[], norm: number, maxNorm: number): Gradient[] {
  const coefficient = maxNorm / (norm + 1e-6);
  if (coefficient >= 1) return [...gradients];
  return gradients.map(([name, gradient]) => {
    const scaled = tf.mul(gradient, coefficient);
    gradient.dispose();
    return [name, scaled] as const;
  });
}
