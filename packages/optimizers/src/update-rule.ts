import {
  cast,
  compile,
  toRaw,
  type AnyTensor,
  type CompiledFunction,
  type DType,
  type tf,
  type Variable,
} from '@blockwise/tensorflow';
import type { Projection } from './optimizer.ts';

/** How one parameter follows its gradient: all that differs between AdamW, Adam and SGD. */
export interface UpdateRule {
  /** The learning rate before any is set. */
  readonly learningRate: number;
  /** The states that a parameter gets in the first step, in the order in which an update is given them. */
  states(parameter: { readonly name: string; readonly shape: readonly number[] }): readonly StateSpec[];
  /**
   * Work before some updates that several cores do for several parameters of one shape in the time of one: those updates wait for each other, at
   * the longest until the end of the step.
   */
  readonly joint?: {
    isDue(update: Pick<Update, 'name' | 'shape' | 'step'>): boolean;
    prepare(updates: readonly Update[]): void;
  };
  /** As Optimizer.projection(), for the update whose number is `step`. */
  projection?(update: Pick<Update, 'name' | 'shape' | 'step' | 'states'>): Projection | undefined;
  /** Makes one update; borrows all. */
  apply(update: Update): void;
}

/** One state of a parameter, zeros at first. */
export interface StateSpec {
  /** PyTorch's name of it: `exp_avg`. */
  readonly name: string;
  /** Default: the parameter's. */
  readonly shape?: readonly number[];
  /** Default float32. */
  readonly dtype?: DType;
}

/** One update of one parameter. */
export interface Update {
  readonly name: string;
  readonly shape: readonly number[];
  /** The float32 master, to be changed in place; a transient one is made when it is asked for. */
  readonly master: Variable;
  /** In the order of UpdateRule.states(): float32 ones, or such as they were asked for. */
  readonly states: readonly Variable[];
  /** In float32, the parameter's shape or its projection's. */
  readonly gradient: tf.Tensor;
  readonly learningRate: number;
  /** Updates of this parameter so far, this one included: 1, 2, ... */
  readonly step: number;
  /** A float32 scalar, borrowed; a slot keeps its tensor while its value stays. */
  readonly scalar: (slot: string, value: number) => tf.Scalar;
  /** Puts what `computed` makes of weight, gradient (by default the update's own) and states in the place of the weight and the states. */
  readonly compute: (computed: ComputedUpdate, scalars: Readonly<Record<string, number>>, gradient?: AnyTensor) => void;
}

/** An update that makes new values of old ones in one compiled function: see computedUpdate(). */
export interface ComputedUpdate {
  readonly scalars: readonly string[];
  /** (weight and gradient in any dtype, states, scalars) -> (new weight in its dtype, new values of the first states). */
  readonly nearest: CompiledFunction<AnyTensor[]>;
  /** The same with the new weight in float32. */
  readonly exact: CompiledFunction<AnyTensor[]>;
}

/**
 * An update as a compiled function, for Update.compute(): a 16-bit weight or gradient needs no float32 copy in memory for it.
 * @param scalars names of the float32 scalars that it takes
 * @param body the new weight and the new values of states (all, or the first ones), all float32, of the old ones and the gradient
 */
export function computedUpdate<Name extends string>(
  name: string,
  scalars: readonly Name[],
  body: (
    weight: tf.Tensor,
    gradient: tf.Tensor,
    states: readonly tf.Tensor[],
    scalars: Readonly<Record<Name, tf.Tensor>>,
  ) => tf.Tensor[],
): ComputedUpdate {
  const compiled = (finish: (weight: tf.Tensor, dtype: DType) => AnyTensor) =>
    compile<AnyTensor[]>(name, (stored, ...inputs) => {
      const [gradient, ...rest] = inputs.map((x) => cast(x));
      const own = rest.splice(rest.length - scalars.length);
      const named = Object.fromEntries(scalars.map((scalar, i) => [scalar, own[i]])) as Record<Name, tf.Tensor>;
      const [weight, ...states] = body(cast(stored), gradient, rest, named);
      return [finish(weight, stored.dtype as DType), ...states];
    });
  return { scalars, nearest: compiled((weight, dtype) => toRaw(weight, dtype)), exact: compiled((weight) => weight) };
}
