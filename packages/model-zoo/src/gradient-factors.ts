import { matMul2d, matMulBfloat16, RawTensor, takeFloat32, tf, toRaw, type AnyTensor } from '@blockwise/tensorflow';

/**
 * A summand of a gradient: the gradient itself, or the two factors of a linear layer's dW = dy^T x, dy [N, outputs] and x [N, inputs], both
 * float32 or both bfloat16. Below about inputs * outputs / (inputs + outputs) rows the factors are smaller than what they make.
 */
export type GradientTerm = readonly [gradient: tf.Tensor] | readonly [dy: AnyTensor, x: AnyTensor];

let recorded: Map<number, readonly [dy: AnyTensor, x: AnyTensor]> | undefined;

/** dy^T x, float32; bfloat16 factors are multiplied as matMulBfloat16() does. */
export function multiplyFactors(dy: AnyTensor, x: AnyTensor): tf.Tensor2D {
  if (dy instanceof tf.Tensor) return matMul2d(dy, x as tf.Tensor, true);
  return takeFloat32(matMulBfloat16(dy, x, true)) as tf.Tensor2D;
}

/** dy^T x, the gradient of a linear layer's weight, multiplied in `dtype`; recordGradientFactors() can take it apart again. */
export function weightGradient(dy: tf.Tensor, x: tf.Tensor, dtype: 'float32' | 'bfloat16' = 'float32'): tf.Tensor {
  const factors = [dy, x].map((factor) => (dtype === 'float32' ? factor : toRaw(factor, dtype)));
  const gradient = multiplyFactors(factors[0], factors[1]);
  // Kept: the scopes of autodiff would free them before they can become results.
  const own = (x: AnyTensor) => (x instanceof RawTensor ? x : tf.keep(tf.clone(x)));
  if (recorded) recorded.set(gradient.id, [own(factors[0]), own(factors[1])]);
  else factors.forEach((x) => x instanceof RawTensor && x.dispose());
  return gradient;
}

/**
 * Runs `body`, which returns gradients, inside a compiled function, and puts factors in the place of each that is the product of one linear
 * layer: it is not computed then. A gradient that is a sum, or that went through another operation, stays as it is.
 */
export function recordGradientFactors(body: () => tf.Tensor[]): GradientTerm[] {
  const own = (recorded = new Map<number, readonly [AnyTensor, AnyTensor]>());
  const result = (x: AnyTensor) => (x instanceof RawTensor ? x : tf.clone(x));
  try {
    return body().map((gradient) => {
      const factors = own.get(gradient.id);
      return factors ? [result(factors[0]), result(factors[1])] : [gradient];
    });
  } finally {
    for (const factors of own.values()) factors.forEach((x) => x instanceof tf.Tensor && x.dispose());
    recorded = undefined;
  }
}
