import {
  cast,
  castAfter,
  columnSums,
  float32Arithmetic,
  gatherRows,
  isFasterInTerms,
  matMul2d,
  matMulBfloat16,
  productInTerms,
  RawTensor,
  sliceRows,
  takeFloat32,
  tf,
  timesTransposed,
  type AnyTensor,
  type Arithmetic,
} from '@blockwise/tensorflow';
import { storedWeight, weightAtRest } from './stage-weights.ts';
import type { LinearLayer } from './stages.ts';
import { rowsGradient, weightGradient } from './gradient-factors.ts';

/**
 * The pieces that Llama-like models share, each with a hand-written gradient: fewer and larger operations than TensorFlow.js's autodiff
 * would leave. Letters: N rows (tokens), H hidden size, B sequences, T their length, A query heads, K key-value heads, G = A / K, D head size.
 */

type Grads = tf.Tensor[];
type Differentiable = (
  save: tf.GradSaveFunc,
  ...inputs: tf.Tensor[]
) => {
  value: tf.Tensor;
  gradFunc: (dy: tf.Tensor, saved: tf.Tensor[]) => Grads;
};

/** tf.customGrad with the save function first, so that inputs keep their types. */
function differentiable(body: Differentiable): (...inputs: tf.Tensor[]) => tf.Tensor {
  const wrapped = tf.customGrad((...args) => {
    const save = args.pop() as unknown as tf.GradSaveFunc;
    return body(save, ...(args as tf.Tensor[])) as ReturnType<Parameters<typeof tf.customGrad>[0]>;
  });
  return wrapped as (...inputs: tf.Tensor[]) => tf.Tensor;
}

/** Products of linear layers, recorded in one run of a stage to be replayed in another. */
interface Products {
  readonly replay: boolean;
  /** float32, or bfloat16 where they were multiplied so: as many bits as they have. */
  readonly values: AnyTensor[];
  next: number;
}

let products: Products | undefined;

function withProducts<T>(own: Products | undefined, body: () => T): T {
  const outer = products;
  products = own;
  try {
    return body();
  } finally {
    products = outer;
  }
}

/**
 * Runs `body` and also returns the products x W^T of its linear layers but the last, in order: with them a second run, for the gradients,
 * needs none of the large multiplications. The last product only makes the result, which no gradient needs.
 */
export function recordProducts<T>(body: () => T): { value: T; products: AnyTensor[] } {
  const own: Products = { replay: false, values: [], next: 0 };
  const value = withProducts(own, body);
  return { value, products: own.values.slice(0, -1) };
}

/** Runs `body` with recorded products in place of multiplications; those beyond the record are computed. Gradients are the same. */
export function replayProducts<T>(values: AnyTensor[], body: () => T): T {
  return withProducts({ replay: true, values, next: 0 }, body);
}

/** Runs `body` outside of any record: products that are cheaper to repeat in the second run than to keep. */
export const unrecorded = <T>(body: () => T): T => withProducts(undefined, body);

/** A product as float32: what `compute` returns, float32 or bfloat16, or the record's. */
function productOf(compute: () => AnyTensor): tf.Tensor {
  if (products?.replay && products.next < products.values.length) return cast(products.values[products.next++]);
  const y = compute();
  const isRecorded = products && !products.replay;
  if (isRecorded) products!.values.push(y);
  if (y instanceof tf.Tensor) return y;
  return isRecorded ? cast(y) : takeFloat32(y);
}

/**
 * Bytes of the float32 copy of a 16-bit weight that exist at a time: about what the last cache level holds, so that a copy is multiplied
 * before it reaches memory, whatever the size of the weight.
 */
const pieceBytes = 16 * 2 ** 20;

/** A weight that is not trained and not kept as float32: of 16 bits, or quantised. */
export interface FrozenWeight {
  readonly shape: readonly number[];
  /** Rows `from` (a multiple of 64) to `to` as float32 [to - from, inputs], made no sooner than `previous`, whose values do not matter. */
  rows(from: number, to: number, previous: tf.Tensor): tf.Tensor;
}

/** [from, to) of the rows of each piece of a weight. */
function pieces({ shape: [rows, columns] }: FrozenWeight): [from: number, to: number][] {
  const count = Math.ceil((4 * rows * columns) / pieceBytes);
  const each = Math.ceil(rows / count / 64) * 64; // whole tiles of the multiplication
  return Array.from({ length: Math.ceil(rows / each) }, (_, i) => [i * each, Math.min((i + 1) * each, rows)]);
}

const frozenHalf = (weight: RawTensor): FrozenWeight => ({
  shape: weight.shape,
  rows(from, to, previous) {
    const rows = sliceRows(weight, from, to);
    const copy = castAfter(rows, previous);
    rows.dispose();
    return copy;
  },
});

/** x W^T with a frozen weight, a piece of its rows after the other. */
function frozenProduct(x: tf.Tensor, weight: FrozenWeight): tf.Tensor {
  let previous = x;
  const parts = pieces(weight).map(([from, to]) => (previous = timesTransposed(x, weight.rows(from, to, previous))));
  return parts.length > 1 ? tf.concat(parts, 1) : parts[0];
}

/** dy W with a frozen weight. */
function frozenGradient(dy: tf.Tensor, weight: FrozenWeight): tf.Tensor {
  const parts = pieces(weight);
  const own = parts.length > 1 ? tf.split(dy, parts.map(([from, to]) => to - from), 1) : [dy]; // prettier-ignore
  let sum: tf.Tensor | undefined;
  parts.forEach(([from, to], i) => {
    const part = matMul2d(own[i], weight.rows(from, to, sum ?? dy));
    sum = sum ? tf.add(sum, part) : part;
  });
  return sum!;
}

/**
 * y = x W^T + b.
 * @param x float32 [N, inputs]
 * @param weight [outputs, inputs], PyTorch's layout: float32, or a frozen one of 16 bits, which is made float32 piece by piece
 * @param bias float32 [outputs], or none
 * @returns float32 [N, outputs]
 */
export function linear(x: tf.Tensor2D, weight: AnyTensor, bias?: tf.Tensor): tf.Tensor2D {
  const y = weight instanceof RawTensor ? halfLinear(x, weight) : trainedLinear(x, weight);
  return bias ? tf.add(y, bias) : y;
}

/** y = x W^T with a weight of 16 bits that gets no gradient. */
function halfLinear(x: tf.Tensor2D, weight: RawTensor): tf.Tensor2D {
  if (!isFasterInTerms(x, weight)) return frozenLinear(x, frozenHalf(weight));
  return productByInput(
    x,
    (x) => productInTerms(x, weight, true),
    (dy) => productInTerms(dy, weight, false),
  );
}

/** y = x W^T with a weight that gets no gradient: float32 [N, inputs] -> [N, outputs]. */
export function frozenLinear(x: tf.Tensor2D, weight: FrozenWeight): tf.Tensor2D {
  return productByInput(
    x,
    (x) => frozenProduct(x, weight),
    (dy) => frozenGradient(dy, weight),
  );
}

function trainedLinear(x: tf.Tensor, weight: tf.Tensor): tf.Tensor2D {
  return productByBoth(x, weight, timesTransposed, matMul2d);
}

/** x W^T as `times` makes it, with a gradient by x alone, dy W as `back` makes it. */
function productByInput(
  x: tf.Tensor,
  times: (x: tf.Tensor) => AnyTensor,
  back: (dy: tf.Tensor) => tf.Tensor,
): tf.Tensor2D {
  const product = differentiable((save, x) => {
    save([]);
    return { value: productOf(() => times(x)), gradFunc: (dy) => [back(dy)] };
  });
  return product(x) as tf.Tensor2D;
}

/** The same with a gradient by the weight too, which is multiplied in `dtype`. */
function productByBoth(
  x: tf.Tensor,
  weight: tf.Tensor,
  times: (x: tf.Tensor, weight: tf.Tensor) => AnyTensor,
  back: (dy: tf.Tensor, weight: tf.Tensor) => tf.Tensor,
  dtype: 'float32' | 'bfloat16' = 'float32',
): tf.Tensor2D {
  const product = differentiable((save, x, weight) => {
    save([x, weight]);
    return {
      value: productOf(() => times(x, weight)),
      gradFunc: (dy, [x, weight]) => [back(dy, weight), weightGradient(dy, x, dtype)],
    };
  });
  return product(x, weight) as tf.Tensor2D;
}

/** A linear module as it stands in the checkpoint. */
export const plainLinear: LinearLayer = (name, x, w) => linear(x, weightAtRest(w, `${name}.weight`), w[`${name}.bias`]);

/**
 * A linear module as plainLinear, with its products in bfloat16 (operands and results; sums and all else in float32), as torch.autocast does:
 * x W^T, dy W and dy^T x. Weights in 16 bits of another kind, or quantised ones, are plainLinear's.
 */
export const bfloat16Linear: LinearLayer = (name, x, w) => {
  const weight = weightAtRest(w, `${name}.weight`);
  if (weight instanceof RawTensor && weight.dtype !== 'bfloat16') return plainLinear(name, x, w);
  // A trained weight that is bfloat16 at rest (LOMO) need not be made float32 to be rounded back.
  const stored = storedWeight(w, `${name}.weight`);
  const operand = (weight: AnyTensor) => (stored.dtype === 'bfloat16' ? stored : weight);
  const times = (x: tf.Tensor, weight: AnyTensor) => matMulBfloat16(x, operand(weight), false, true);
  const back = (dy: tf.Tensor, weight: AnyTensor) => takeFloat32(matMulBfloat16(dy, operand(weight)));
  const y =
    weight instanceof RawTensor
      ? productByInput(
          x,
          (x) => times(x, weight),
          (dy) => back(dy, weight),
        )
      : productByBoth(x, weight, times, back, 'bfloat16');
  const bias = w[`${name}.bias`];
  return bias ? tf.add(y, bias) : y;
};

/**
 * Rows of the embedding.
 * @param ids int32 [N]
 * @param weight [vocabulary, H]: float32, or a frozen one of 16 bits
 * @param paddingId the row that gets no gradient (PyTorch's `padding_idx`); it is looked up like any other
 * @returns float32 [N, H]; its gradient is dense, [vocabulary, H]
 */
export function embedding(ids: tf.Tensor1D, weight: AnyTensor, paddingId?: number): tf.Tensor2D {
  if (weight instanceof RawTensor) return gatherRows(weight, ids) as tf.Tensor2D;
  const lookUp = differentiable((save, weight) => {
    save([ids]);
    const rows = weight.shape[0];
    return {
      value: tf.gather(weight, ids),
      gradFunc: (dy, [ids]) => {
        // Negative segments are left out of the sum.
        const into = paddingId === undefined ? ids : tf.where(tf.equal(ids, paddingId), tf.scalar(-1, 'int32'), ids);
        return [rowsGradient(into as tf.Tensor1D, dy, rows)];
      },
    };
  });
  return lookUp(weight) as tf.Tensor2D;
}

/**
 * Root-mean-square normalisation (arXiv 1910.07467, as in transformers' LlamaRMSNorm): y = w x / sqrt(mean(x^2) + eps).
 * With r = 1 / sqrt(...), n = r x and g = w dy: dx = r (g - n mean(g n)), dw = sum over rows of dy n.
 * @param x float32 [N, H]
 * @param weight float32 [H]
 * @returns float32 [N, H]
 */
export function rmsNorm(x: tf.Tensor2D, weight: tf.Tensor, eps: number): tf.Tensor2D {
  const norm = differentiable((save, x, weight) => {
    const scale = tf.rsqrt(tf.add(tf.mean(tf.square(x), -1, true), eps));
    const normed = tf.mul(x, scale);
    save([normed, scale, weight]);
    return {
      value: tf.mul(normed, weight),
      gradFunc: (dy, [normed, scale, weight]) => {
        const g = tf.mul(dy, weight);
        const along = tf.mean(tf.mul(g, normed), -1, true);
        return [tf.mul(scale, tf.sub(g, tf.mul(normed, along))), columnSums(tf.mul(dy, normed))];
      },
    };
  });
  return norm(x, weight) as tf.Tensor2D;
}

const halves = (x: tf.Tensor) => tf.split(x, 2, 3);

/** (x1 cos1 - x2 sin1, x2 cos2 + x1 sin2) with the halves of each over the last axis, as transformers lays heads out. */
function rotate(x: tf.Tensor, cos: tf.Tensor, sin: tf.Tensor): tf.Tensor {
  const [[x1, x2], [cos1, cos2], [sin1, sin2]] = [halves(x), halves(cos), halves(sin)];
  return tf.concat([tf.sub(tf.mul(x1, cos1), tf.mul(x2, sin1)), tf.add(tf.mul(x2, cos2), tf.mul(x1, sin2))], 3);
}

/**
 * Rotary position embedding (arXiv 2104.09864): each head turned by its position's angles. A rotation's gradient is the rotation back.
 * @param x float32 [B, T, heads, D]
 * @param cos float32 [B or 1, T, 1, D]
 * @param sin the same
 */
export function rotary(x: tf.Tensor4D, cos: tf.Tensor, sin: tf.Tensor): tf.Tensor4D {
  const turned = differentiable((save, x) => {
    save([cos, sin]);
    return { value: rotate(x, cos, sin), gradFunc: (dy, [cos, sin]) => [rotate(dy, cos, tf.neg(sin))] };
  });
  return turned(x) as tf.Tensor4D;
}

/** Queries in a piece of causal attention at least: fewer make products too small to be fast. */
const pieceQueries = 256;

/**
 * Attention(Q, K, V) = softmax(Q K^T / sqrt(D) + mask) V (arXiv 1706.03762). Grouped queries are folded into rows, so that the keys of a
 * group are never copied.
 * @param queries float32 [B, K, G * T, D]
 * @param keys float32 [B, K, S, D]
 * @param values float32 [B, K, S, D]
 * @param mask float32 [B or 1, 1, 1, T, S], 0 where a query may look and a large negative number elsewhere
 * @param options `causal`: whether with S = T the mask lets no query see a later key. Then the queries go a piece after the other against
 *   the keys up to the piece's last: for long rows nearly half of all scores are left out. `arithmetic`: float32 unless said
 * @returns float32 [B, K, G * T, D]
 */
export function attention(
  queries: tf.Tensor,
  keys: tf.Tensor,
  values: tf.Tensor,
  mask: tf.Tensor,
  { causal = false, arithmetic = float32Arithmetic }: { causal?: boolean; arithmetic?: Arithmetic } = {},
): tf.Tensor4D {
  const [B, K, rows, D] = queries.shape;
  const [length, span] = mask.shape.slice(-2);
  const size = Math.max(pieceQueries, Math.ceil(length / 8 / 64) * 64);
  if (!causal || length !== span || length <= size) return attendOver(queries, keys, values, mask, arithmetic);
  const G = rows / length;
  const sizes = Array.from({ length: Math.ceil(length / size) }, (_, i) => Math.min(size, length - i * size));
  const parts = tf.split(tf.reshape(queries, [B, K, G, length, D]), sizes, 3).map((part, i) => {
    const [from, t] = [i * size, sizes[i]];
    const seen = (x: tf.Tensor) => (from + t < span ? tf.slice(x, [0, 0, 0, 0], [B, K, from + t, D]) : x);
    const ownMask = tf.slice(mask, [0, 0, 0, from, 0], [mask.shape[0], 1, 1, t, from + t]);
    const own = tf.reshape(part, [B, K, G * t, D]);
    return tf.reshape(attendOver(own, seen(keys), seen(values), ownMask, arithmetic), [B, K, G, t, D]);
  });
  return tf.reshape(tf.concat(parts, 3), [B, K, rows, D]);
}

/** attention() of all queries over all keys at once. */
function attendOver(
  queries: tf.Tensor,
  keys: tf.Tensor,
  values: tf.Tensor,
  mask: tf.Tensor,
  { multiply, softmax }: Arithmetic,
): tf.Tensor4D {
  const [B, K, rows, D] = queries.shape;
  const [length, span] = mask.shape.slice(-2);
  const attend = differentiable((save, queries, keys, values) => {
    const scaled = tf.mul(queries, 1 / Math.sqrt(D));
    const scores = tf.reshape(multiply(scaled, keys, false, true), [B, K, rows / length, length, span]);
    const weights = softmax(tf.reshape(tf.add(scores, mask), [B, K, rows, span]));
    const value = multiply(weights, values);
    save([scaled, keys, values, weights, value]);
    return {
      value,
      gradFunc: (dy, [scaled, keys, values, weights, value]) => {
        const dWeights = multiply(dy, values, false, true);
        // The sum over keys of dWeights * weights is that over D of dy * value, which is smaller (FlashAttention, arXiv 2205.14135, appendix B.2).
        const along = tf.sum(tf.mul(dy, value), -1, true);
        const dScores = tf.mul(weights, tf.sub(dWeights, along));
        return [
          tf.mul(multiply(dScores, keys), 1 / Math.sqrt(D)),
          multiply(dScores, scaled, true),
          multiply(weights, dy, true),
        ];
      },
    };
  });
  return attend(queries, keys, values) as tf.Tensor4D;
}

/**
 * silu(gate) * up (arXiv 2002.05202), silu(x) = x sigmoid(x). With s = sigmoid(gate): dgate = dy up s (1 + gate (1 - s)).
 * @param gate float32 [N, inner]
 * @param up the same
 */
export function swiglu(gate: tf.Tensor2D, up: tf.Tensor2D): tf.Tensor2D {
  const gated = differentiable((save, gate, up) => {
    const sigmoid = tf.sigmoid(gate);
    const silu = tf.mul(gate, sigmoid);
    save([up, sigmoid, silu]);
    return {
      value: tf.mul(silu, up),
      gradFunc: (dy, [up, sigmoid, silu]) => {
        const slope = tf.add(sigmoid, tf.mul(silu, tf.sub(1, sigmoid)));
        return [tf.mul(tf.mul(dy, up), slope), tf.mul(dy, silu)];
      },
    };
  });
  return gated(gate, up) as tf.Tensor2D;
}
