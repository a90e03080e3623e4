import { multiplyFactors, type GradientTerm } from '@blockwise/model-zoo';
import { Variable, type AnyTensor, type tf } from '@blockwise/tensorflow';

/** A gradient the moment it is complete; owned by the receiver. */
export type Gradient = readonly [name: string, gradient: tf.Tensor];

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

/** A sum that grows in place: it and one summand are alive, not a third tensor for the result. */
class GradientSum {
  private sum: Variable | undefined;

  /** Takes over `more`. */
  add(more: tf.Tensor): void {
    if (this.sum) this.sum.add(more);
    else this.sum = new Variable(more); // one buffer with `more`
    more.dispose();
  }

  /** The sum, owned by the caller; nothing can be added any more. */
  take(): tf.Tensor {
    const value = this.sum!.read();
    this.sum!.dispose();
    return value;
  }
}
