import type { GradientTerm } from '@blockwise/model-zoo';
import type { Optimizer, Projection } from '@blockwise/optimizers';
import {
  addRowsInPlace,
  byteLengthOf,
  cast,
  compile,
  elementCount,
  multiplyFactors,
  RawTensor,
  takeFloat32,
  tf,
  Variable,
  type AnyTensor,
  type Parameter,
} from '@blockwise/tensorflow';

/** A gradient (or its projection) the moment it is complete, float32 or (the product of one linear layer in bfloat16) bfloat16; owned by the receiver. */
export type Gradient = readonly [name: string, gradient: AnyTensor];

/**
 * How an optimizer wants gradients. fused: at most one of a matrix is alive at a time, a tied head's excepted; those of linear layers are kept as
 * factors until it is their turn, as is done otherwise where it takes less memory (the gradients are the same bits). projection: what is handed
 * out in place of a gradient; of a linear layer's, the factors make it, and the gradient itself never exists.
 */
export type GradientsWanted = Pick<Optimizer, 'fused' | 'projection'>;

/** Gradients still growing, over micro-batches or because a weight is tied. Terms that are factors or rows become whole when taken. */
export class OpenGradients {
  private readonly open = new Map<string, OpenGradient>();

  /** @param projectionOf what is wanted in place of a gradient: as Optimizer.projection() */
  constructor(private readonly projectionOf: (name: string) => Projection | undefined) {}

  /** Takes over the term of a parameter's gradient. */
  add({ name, shape }: Pick<Parameter, 'name' | 'shape'>, term: GradientTerm): void {
    let entry = this.open.get(name);
    if (!entry) this.open.set(name, (entry = { sum: new GradientSum(shape), factors: [], rows: [] }));
    const projection = this.projectionOf(name);
    if (projection) entry.sum.add(projected(projection, term, shape));
    else if (term.length === 1) entry.sum.add(term[0]);
    else if (term[0].dtype === 'int32') entry.rows.push(term as Rows);
    else entry.factors.push(term);
    // Those of many micro-batches would come to take more than what they make.
    const held = entry.factors.flat().reduce((sum, factor) => sum + byteLengthOf(factor), 0);
    if (entry.factors.length > 1 && held > 4 * elementCount(shape)) multiply(entry);
  }

  /** Takes out the gradients of all names but some, one at a time: each is made when it is asked for. */
  *take(except: ReadonlySet<string>): Generator<Gradient> {
    for (const [name, entry] of [...this.open]) {
      if (except.has(name)) continue;
      this.open.delete(name);
      multiply(entry);
      for (const [ids, rows] of entry.rows) {
        entry.sum.addRows(ids, rows);
        tf.dispose([ids, rows]);
      }
      yield [name, entry.sum.take()!];
    }
  }

  /** Frees what was not taken. */
  dispose(): void {
    for (const { sum, factors, rows } of this.open.values())
      [sum.take(), ...factors.flat(), ...rows.flat()].forEach((one) => one?.dispose());
    this.open.clear();
  }
}

type Factors = readonly [dy: AnyTensor, x: AnyTensor];
type Rows = readonly [ids: tf.Tensor1D, rows: tf.Tensor];

/** A sum, and what is still to be added to it, in this order whatever the order in which micro-batches brought it. */
interface OpenGradient {
  readonly sum: GradientSum;
  factors: Factors[];
  readonly rows: Rows[];
}

/** Adds the products of factors to the sum. */
function multiply(entry: OpenGradient): void {
  const { sum, factors } = entry;
  entry.factors = [];
  for (const [dy, x] of factors) {
    sum.add(multiplyFactors(dy, x));
    dy.dispose();
    x.dispose();
  }
}

/** The projection of a gradient's term, which it consumes. */
function projected(projection: Projection, term: GradientTerm, [rows]: readonly number[]): tf.Tensor {
  const [first, second] = term;
  const areRows = first.dtype === 'int32';
  const whole = areRows ? [tf.unsortedSegmentSum(second as tf.Tensor, first as tf.Tensor1D, rows)] : term;
  const result = projection.of(...whole);
  [...term, ...(areRows ? whole : [])].forEach((one) => one.dispose());
  return result;
}

/** A float32 sum. Of float32 summands it grows in place: it and one summand are alive, no third tensor. A lone summand stays as it came. */
class GradientSum {
  private sum: AnyTensor | undefined;

  constructor(private readonly shape: readonly number[]) {}

  /** Adds rows in the places that ids, int32 [N], give (negative ones: nowhere); borrows both. */
  addRows(ids: tf.Tensor1D, rows: tf.Tensor): void {
    const { sum } = this;
    this.sum = sum ? withRows(sum, ids, rows) : tf.unsortedSegmentSum(rows, ids, this.shape[0]);
  }

  /** Takes over `more`. */
  add(more: AnyTensor): void {
    const { sum } = this;
    this.sum = !sum ? more : sum instanceof RawTensor || more instanceof RawTensor ? widened(sum, more) : grown(sum, more); // prettier-ignore
  }

  /** The sum, if there is one, owned by the caller; nothing can be added any more. */
  take(): AnyTensor | undefined {
    return this.sum;
  }
}

/** The sum of two summands, one or both in 16 bits: in one pass, without float32 copies of them. Consumes both. */
function widened(a: AnyTensor, b: AnyTensor): AnyTensor {
  const [sum] = plus(a, b);
  a.dispose();
  b.dispose();
  return sum;
}

const plus = compile('gradient_sum', (a, b) => [tf.add(cast(a), cast(b))]);

/**
 * A float32 sum with rows added to some of its own: to each once, what belongs to it being summed before, so that the order of additions is
 * fixed. Consumes `sum`.
 */
function withRows(sum: AnyTensor, ids: tf.Tensor1D, rows: tf.Tensor): tf.Tensor {
  const places = new Map<number, number>();
  const segments = ids.dataSync().map((id) => {
    if (id >= 0 && !places.has(id)) places.set(id, places.size);
    return places.get(id) ?? -1;
  });
  return tf.tidy(() => {
    const own = tf.unsortedSegmentSum(rows, tf.tensor1d(segments, 'int32'), places.size);
    const whole = sum instanceof RawTensor ? takeFloat32(sum) : sum;
    return addRowsInPlace(whole, tf.tensor1d(Int32Array.from(places.keys()), 'int32'), own);
  });
}

/** As widened() of float32 summands, in the buffer of the first. */
function grown(a: tf.Tensor, b: tf.Tensor): tf.Tensor {
  const variable = new Variable(a); // one buffer with it
  a.dispose();
  variable.add(b);
  b.dispose();
  const sum = variable.read();
  variable.dispose();
  return sum;
}
