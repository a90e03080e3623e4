import { cast, multiplyFactors, RawTensor, tf, toRaw, type AnyTensor } from '@blockwise/tensorflow';

/**
 * A summand of a gradient: the gradient itself, float32 or (where it was multiplied so) bfloat16; or the two factors of a linear layer's
 * dW = dy^T x, dy [N, outputs] and x [N, inputs], both float32 or both bfloat16, below about inputs * outputs / (inputs + outputs) rows smaller
 * than what they make; or the rows of an embedding's, ids int32 [N] (negative ones have no row) and dy float32 [N, H].
 */
export type GradientTerm = readonly [gradient: AnyTensor] | Factors;
type Factors = readonly [first: AnyTensor, second: AnyTensor];

interface Product {
  readonly factors: Factors;
  readonly gradient: AnyTensor;
}

let recorded: Map<number, Product> | undefined;

/** dy^T x, the gradient of a linear layer's weight, multiplied in `dtype`, as float32; gradientTerms() can take it apart again. */
export function weightGradient(dy: tf.Tensor, x: tf.Tensor, dtype: 'float32' | 'bfloat16' = 'float32'): tf.Tensor {
  const factors = [dy, x].map((factor) => (dtype === 'float32' ? factor : toRaw(factor, dtype)));
  const product = multiplyFactors(factors[0], factors[1]);
  const gradient = cast(product);
  // Kept: the scopes of autodiff would free them before they can become results.
  const own = (x: AnyTensor) => (x instanceof RawTensor ? x : tf.keep(tf.clone(x)));
  if (recorded) recorded.set(gradient.id, { factors: [own(factors[0]), own(factors[1])], gradient: own(product) });
  else [...factors, product].forEach((x) => x instanceof RawTensor && x.dispose());
  return gradient;
}

/** The gradient of an embedding of `count` rows, float32 [count, H]; gradientTerms() takes it apart again. */
export function rowsGradient(ids: tf.Tensor1D, dy: tf.Tensor, count: number): tf.Tensor {
  const gradient = tf.unsortedSegmentSum(dy, ids, count);
  const own = (x: tf.Tensor) => tf.keep(tf.clone(x));
  recorded?.set(gradient.id, { factors: [own(ids), own(dy)], gradient: own(gradient) });
  return gradient;
}

/**
 * Runs `body`, which returns gradients, inside a compiled function, and puts in the place of each that is the product of one linear layer the
 * product as it was multiplied or, with `factored`, its factors, and in the place of an embedding's its rows: it is not computed then. A gradient
 * that is a sum, or that went through another operation, stays as it is.
 */
export function gradientTerms(body: () => tf.Tensor[], factored: boolean): GradientTerm[] {
  const own = (recorded = new Map<number, Product>());
  const result = (x: AnyTensor) => (x instanceof RawTensor ? x : tf.clone(x));
  try {
    return body().map((gradient) => {
      const product = own.get(gradient.id);
      if (!product) return [gradient];
      const { factors } = product;
      const areRows = factors[0].dtype === 'int32';
      return factored || areRows ? [result(factors[0]), result(factors[1])] : [result(product.gradient)];
    });
  } finally {
    for (const { factors, gradient } of own.values())
      [...factors, gradient].forEach((x) => x instanceof tf.Tensor && x.dispose());
    recorded = undefined;
  }
}
