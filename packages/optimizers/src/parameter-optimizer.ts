import { cast, RawTensor, tf, toRaw, Variable, type Parameter } from '@blockwise/tensorflow';
import type { JsonObject, JsonValue, Optimizer, OptimizerState, StateTensor } from './optimizer.ts';
import { ScalarSlots } from './scalar-slots.ts';
import { UserError } from './user-error.ts';

/** How one parameter follows its gradient: all that differs between AdamW, Adam and SGD. */
export interface UpdateRule {
  /** The learning rate before any is set. */
  readonly learningRate: number;
  /** PyTorch's names of the states kept per parameter: float32, of its shape, zero at first, made at its first update. */
  readonly states: readonly string[];
  /** Changes `master` and `states` in place; borrows all. */
  apply(update: Update): void;
}

/** One update of one parameter. */
export interface Update {
  name: string;
  master: Variable;
  /** In the order of UpdateRule.states. */
  states: readonly Variable[];
  gradient: tf.Tensor;
  learningRate: number;
  /** Updates of this parameter so far, this one included: 1, 2, ... */
  step: number;
  /** A float32 scalar, borrowed; a slot keeps its tensor while its value stays. */
  scalar: (slot: string, value: number) => tf.Scalar;
}

interface Progress {
  step: number;
  states: Variable[];
}

/** An optimizer that trains all its parameters by one rule. Each parameter counts its own steps, as in torch.optim. */
export class ParameterOptimizer implements Optimizer {
  learningRate: number;
  readonly trainable: ReadonlySet<string>;
  private readonly parameters: ReadonlyMap<string, Parameter>;
  private readonly progress = new Map<string, Progress>();
  private readonly updated = new Set<string>();
  private readonly scalars = new ScalarSlots();

  /** Gives every parameter its float32 master. */
  constructor(
    parameters: readonly Parameter[],
    private readonly rule: UpdateRule,
  ) {
    this.parameters = byName(parameters);
    this.trainable = new Set(this.parameters.keys());
    this.learningRate = rule.learningRate;
    for (const parameter of parameters) parameter.activate();
  }

  beginStep(): void {
    this.updated.clear();
  }

  update(name: string, gradient: tf.Tensor): void {
    const master = this.master(name);
    if (gradient.shape.join() !== master.shape.join())
      throw new Error(`internal: ${name} of shape [${master.shape}] got a gradient of shape [${gradient.shape}]`);
    // Two gradients (of a tied weight, say) have to be summed first: Adam of the parts is not Adam of the sum.
    if (this.updated.has(name)) throw new Error(`internal: ${name} is updated twice in one step`);
    this.updated.add(name);
    const progress = this.progress.get(name) ?? this.begin(name, master);
    progress.step++;
    const { step, states } = progress;
    this.rule.apply({
      ...{ name, master, states, gradient, step },
      learningRate: this.learningRate,
      scalar: this.scalars.get,
    });
  }

  endStep(): void {}

  state(): OptimizerState {
    const steps: JsonObject = {};
    const tensors = new Map<string, StateTensor>();
    for (const name of this.trainable) {
      tensors.set(`${name}.master`, copyOut(this.master(name)));
      const progress = this.progress.get(name);
      if (!progress) continue;
      steps[name] = progress.step;
      progress.states.forEach((state, i) => tensors.set(`${name}.${this.rule.states[i]}`, copyOut(state)));
    }
    return { scalars: { learningRate: this.learningRate, steps }, tensors };
  }

  restore(state: OptimizerState): void {
    const { learningRate, steps } = state.scalars;
    const problems = this.misfits(steps, state.tensors);
    if (typeof learningRate !== 'number')
      problems.push(`learningRate is ${JSON.stringify(learningRate)}, not a number`);
    if (problems.length > 0) throw UserError.of('the optimizer state does not fit this run', problems);
    this.learningRate = learningRate as number;
    this.dispose();
    for (const name of this.trainable) {
      const master = this.master(name);
      copyIn(master, state.tensors.get(`${name}.master`)!);
      const step = (steps as JsonObject)[name] as number | undefined;
      if (step === undefined) continue;
      const progress = this.begin(name, master);
      progress.step = step;
      progress.states.forEach((variable, i) => copyIn(variable, state.tensors.get(`${name}.${this.rule.states[i]}`)!));
    }
  }

  /** What in a state does not belong to these parameters and this rule. */
  private misfits(steps: JsonValue, tensors: OptimizerState['tensors']): string[] {
    if (typeof steps !== 'object' || steps === null || Array.isArray(steps)) return ['it has no step counts'];
    const problems: string[] = [];
    for (const [name, step] of Object.entries(steps)) {
      if (!this.trainable.has(name)) problems.push(`${name} has a step count, but is not trained here`);
      if (!Number.isSafeInteger(step) || (step as number) < 1)
        problems.push(`the step count of ${name} is ${JSON.stringify(step)}, not a positive integer`);
    }
    for (const [name, { shape }] of this.parameters) {
      const wanted = ['master', ...(name in steps ? this.rule.states : [])];
      for (const key of wanted.map((state) => `${name}.${state}`)) {
        const found = tensors.get(key);
        if (!found) problems.push(`${key} is missing`);
        else if (found.shape.join() !== shape.join())
          problems.push(`${key} has shape [${found.shape}], expected [${shape}]`);
        else if (found.bytes.byteLength !== 4 * shape.reduce((product, size) => product * size, 1))
          problems.push(`${key} has ${found.bytes.byteLength} bytes, which is not float32[${shape}]`);
      }
    }
    return problems;
  }

  memory(): { masters: number; states: number } {
    let masters = 0;
    let states = 0;
    for (const parameter of this.parameters.values()) masters += parameter.master?.byteLength ?? 0;
    for (const progress of this.progress.values()) for (const state of progress.states) states += state.byteLength;
    return { masters, states };
  }

  dispose(): void {
    for (const { states } of this.progress.values()) states.forEach((state) => state.dispose());
    this.progress.clear();
    this.scalars.dispose();
  }

  private master(name: string): Variable {
    const parameter = this.parameters.get(name);
    if (!parameter) throw new Error(`internal: ${name} is not a parameter that this optimizer trains now`);
    if (!parameter.master) throw new Error(`internal: ${name} lost its master while it was trained`);
    return parameter.master;
  }

  private begin(name: string, { shape }: Variable): Progress {
    const progress = { step: 0, states: this.rule.states.map(() => zeros(shape)) };
    this.progress.set(name, progress);
    return progress;
  }
}

/** Parameters by their names, which have to differ. */
export function byName(parameters: readonly Parameter[]): Map<string, Parameter> {
  const map = new Map<string, Parameter>();
  for (const parameter of parameters) {
    if (map.has(parameter.name)) throw new Error(`internal: two parameters are called ${parameter.name}`);
    map.set(parameter.name, parameter);
  }
  return map;
}

function zeros(shape: readonly number[]): Variable {
  const initial = tf.fill([...shape], 0);
  const variable = new Variable(initial);
  initial.dispose();
  return variable;
}

function copyOut(variable: Variable): StateTensor {
  const values = variable.read();
  const raw = toRaw(values, 'float32');
  const bytes = raw.bytes();
  raw.dispose();
  values.dispose();
  return { shape: [...variable.shape], bytes };
}

function copyIn(variable: Variable, { shape, bytes }: StateTensor): void {
  const raw = RawTensor.fromBytes(bytes, shape, 'float32');
  const values = cast(raw);
  variable.assign(values);
  values.dispose();
  raw.dispose();
}
