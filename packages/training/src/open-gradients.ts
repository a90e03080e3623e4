import { multiplyFactors, type GradientTerm } from '@blockwise/model-zoo';
import { cast, compile, RawTensor, tf, Variable, type AnyTensor } from '@blockwise/tensorflow';

/** A gradient the moment it is complete, float32 or (the product of one linear layer in bfloat16) bfloat16; owned by the receiver. */
export type Gradient = readonly [name: string, gradient: AnyTensor];

/** Gradients still growing, over micro-batches or because a weight is tied. Terms that are factors are multiplied out when taken. */
export class OpenGradients {
  private readonly open = new Map<string, { sum: GradientSum; factors: (readonly [dy: AnyTensor, x: AnyTensor])[] }>();

  /** Takes over the term. */
  add(name: string, term: GradientTerm): void {
    let entry = this.open.get(name);
    if (!entry) this.open.set(name, (entry = { sum: new GradientSum(), factors: [] }));
    if (term.length === 1) entry.sum.add(term[0]);
    else entry.factors.push(term);
  }

  /** Takes out the gradients of all names but some, one at a time: each is made when it is asked for. */
  *take(except: ReadonlySet<string>): Generator<Gradient> {
    for (const [name, { sum, factors }] of [...this.open]) {
      if (except.has(name)) continue;
      this.open.delete(name);
      for (const [dy, x] of factors) {
        sum.add(multiplyFactors(dy, x));
        dy.dispose();
        x.dispose();
      }
      yield [name, sum.take()];
    }
  }
}

/** A float32 sum. Of float32 summands it grows in place: it and one summand are alive, no third tensor. A lone summand stays as it came. */
class GradientSum {
  private sum: AnyTensor | undefined;

  /** Takes over `more`. */
  add(more: AnyTensor): void {
    const { sum } = this;
    this.sum = !sum ? more : sum instanceof RawTensor || more instanceof RawTensor ? widened(sum, more) : grown(sum, more); // prettier-ignore
  }

  /** The sum, owned by the caller; nothing can be added any more. */
  take(): AnyTensor {
    return this.sum!;
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

/** As widened() of float32 summands, in the buffer of the first. */
function grown(a: tf.Tensor, b: tf.Tensor): tf.Tensor {
  const sum = new Variable(a); // one buffer with it
  a.dispose();
  sum.add(b);
  b.dispose();
  const value = sum.read();
  sum.dispose();
  return value;
}
