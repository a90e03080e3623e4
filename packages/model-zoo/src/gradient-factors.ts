import { matMul2d, tf } from '@blockwise/tensorflow';

/**
 * A summand of a gradient: the gradient itself, or the two factors of a linear layer's dW = dy^T x, dy float32 [N, outputs] and
 * x float32 [N, inputs]. Below about inputs * outputs / (inputs + outputs) rows the factors are smaller than what they make.
 */
export type GradientTerm = readonly [gradient: tf.Tensor] | readonly [dy: tf.Tensor, x: tf.Tensor];

let recorded: Map<number, GradientTerm> | undefined;

/** dy^T x, the gradient of a linear layer's weight; recordGradientFactors() can take it apart again. */
export function weightGradient(dy: tf.Tensor, x: tf.Tensor): tf.Tensor {
  const gradient = matMul2d(dy, x, true);
  // Kept: the scopes of autodiff would free them before they can become results.
  recorded?.set(gradient.id, [tf.keep(tf.clone(dy)), tf.keep(tf.clone(x))]);
  return gradient;
}

/**
 * Runs `body`, which returns gradients, inside a compiled function, and puts factors in the place of each that is the product of one linear
 * layer: it is not computed then. A gradient that is a sum, or that went through another operation, stays as it is.
 */
export function recordGradientFactors(body: () => tf.Tensor[]): GradientTerm[] {
  const own = (recorded = new Map<number, GradientTerm>());
  try {
    return body().map((gradient) => {
      const factors = own.get(gradient.id);
      return factors ? (factors.map((factor) => tf.clone(factor)) as unknown as GradientTerm) : [gradient];
    });
  } finally {
    for (const factors of own.values()) tf.dispose([...factors]);
    recorded = undefined;
  }
}
