import { multiplyFactors, type GradientTerm } from '@blockwise/model-zoo';
import { cast, Variable, type AnyTensor } from '@blockwise/tensorflow';

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

/** A float32 sum that grows in place: it and one summand are alive, not a third tensor for the result. A lone summand stays as it came. */
class GradientSum {
  private only: AnyTensor | undefined;
  private sum: Variable | undefined;

  /** Takes over `more`. */
  add(more: AnyTensor): void {
    if (!this.only && !this.sum) {
      this.only = more;
      return;
    }
    this.sum ??= this.begin();
    const values = cast(more);
    this.sum.add(values);
    values.dispose();
    more.dispose();
  }

  private begin(): Variable {
    const values = cast(this.only!);
    const sum = new Variable(values); // one buffer with a float32 summand
    values.dispose();
    this.only!.dispose();
    this.only = undefined;
    return sum;
  }

  /** The sum, owned by the caller; nothing can be added any more. */
  take(): AnyTensor {
    if (!this.sum) return this.only!;
    const value = this.sum.read();
    this.sum.dispose();
    return value;
  }
}
