import { isObject, UserError } from '@blockwise/errors';
import {
  cast,
  dtypes,
  elementCount,
  RawTensor,
  share,
  takeFloat32,
  takeRaw,
  tf,
  toRaw,
  Variable,
  type AnyTensor,
  type Parameter,
  type Rounding,
} from '@blockwise/tensorflow';
import { availableParallelism } from 'node:os';
import { roundingAt } from './hash.ts';
import type { DynamicLossScaler } from './loss-scaler.ts';
import type { JsonObject, JsonValue, Optimizer, OptimizerState, Projection, StateTensor } from './optimizer.ts';
import { roundingProblems, storageProblems } from './option-checks.ts';
import { ScalarSlots } from './scalar-slots.ts';
import type { ComputedUpdate, StateSpec, Update, UpdateRule } from './update-rule.ts';

/** How an optimizer keeps the values of its parameters. */
export interface MasterOptions {
  /**
   * kept (default): float32 masters from the first to the last step. transient: a 16-bit parameter becomes float32 for its update alone
   * and is rounded back, which loses updates below its precision but takes no memory between updates (LOMO). Float32 parameters are
   * updated in place either way.
   */
  masters?: 'kept' | 'transient';
  /** How transient masters are rounded; default nearest. */
  rounding?: Rounding;
}

/** How a ParameterOptimizer works. */
export interface ParameterOptimizerOptions extends MasterOptions {
  /** As Optimizer.fused. */
  fused?: boolean;
  /** As Optimizer.lossScaler; its state is kept with the optimizer's. */
  lossScaler?: DynamicLossScaler;
}

/** An update in the making. */
interface Pending {
  readonly update: Update;
  end(): void;
}

interface Progress {
  step: number;
  specs: readonly StateSpec[];
  states: Variable[];
}

/** An optimizer that trains all its parameters by one rule. Each parameter counts its own steps, as in torch.optim. */
export class ParameterOptimizer implements Optimizer {
  learningRate: number;
  readonly trainable: ReadonlySet<string>;
  private readonly parameters: ReadonlyMap<string, Parameter>;
  private readonly progress = new Map<string, Progress>();
  private readonly updated = new Set<string>();
  /** Updates that wait for others of their shape. */
  private readonly waiting = new Map<string, Pending[]>();
  private readonly scalars = new ScalarSlots();

  visit = 0;
  readonly fused: boolean;
  readonly lossScaler: DynamicLossScaler | undefined;

  /**
   * Gives every parameter its float32 master, transient ones excepted.
   * @throws UserError where a parameter is stored as no float, and where transient masters cannot be rounded as they should
   */
  constructor(
    parameters: readonly Parameter[],
    private readonly rule: UpdateRule,
    private readonly options: ParameterOptimizerOptions = {},
  ) {
    const transient = parameters.filter((parameter) => this.isTransient(parameter));
    const problems = [...storageProblems(parameters), ...roundingProblems(options.rounding, transient)];
    if (problems.length > 0) throw UserError.of("the optimizer's options", problems);
    this.fused = options.fused ?? false;
    this.lossScaler = options.lossScaler;
    this.parameters = byName(parameters);
    this.trainable = new Set(this.parameters.keys());
    this.learningRate = rule.learningRate;
    for (const parameter of parameters) if (!this.isTransient(parameter)) parameter.activate();
  }

  beginStep(): void {
    this.updated.clear();
    // All states before the first gradient: made between gradients, they would leave holes of the gradients' sizes in the allocator's pool.
    for (const parameter of this.parameters.values()) if (!this.progress.has(parameter.name)) this.begin(parameter);
  }

  projection(name: string): Projection | undefined {
    const { rule, parameters, progress } = this;
    const { step, states } = progress.get(name) ?? {};
    return states && rule.projection?.({ name, shape: parameters.get(name)!.shape, step: step! + 1, states });
  }

  update(name: string, gradient: AnyTensor): void {
    const parameter = trainedParameter(this.parameters, name, gradient, this.projection(name));
    // Two gradients (of a tied weight, say) have to be summed first: Adam of the parts is not Adam of the sum.
    if (this.updated.has(name)) throw new Error(`internal: ${name} is updated twice in one step`);
    this.updated.add(name);
    const progress = this.progress.get(name) ?? this.begin(parameter);
    progress.step++;
    const { joint } = this.rule;
    const { step } = progress;
    if (!joint?.isDue({ name, shape: parameter.shape, step }))
      return this.finish([this.begun(parameter, progress, gradient)]);
    const key = String(parameter.shape);
    // The caller's gradient is only lent.
    const kept = share(gradient);
    const { update, end } = this.begun(parameter, progress, kept);
    const own = { update, end: () => (end(), kept.dispose()) };
    const all = [...(this.waiting.get(key) ?? []), own];
    this.waiting.set(key, all);
    if (all.length === availableParallelism()) this.finishWaiting(key);
  }

  private begun(parameter: Parameter, progress: Progress, gradient: AnyTensor): Pending {
    const { name, shape } = parameter;
    const { step, states } = progress;
    const transient = this.isTransient(parameter);
    let values: tf.Tensor | undefined;
    const update: Update = {
      ...{ name, shape, states, step, learningRate: this.learningRate, scalar: this.scalars.get },
      compute: (computed, scalars, own = gradient) => this.compute(computed, scalars, parameter, progress, own),
      get master() {
        if (transient) parameter.activate();
        return masterOf(parameter);
      },
      get gradient() {
        return (values ??= tf.keep(cast(gradient)));
      },
    };
    const end = () => {
      values?.dispose();
      if (transient) parameter.deactivate(this.roundingOf(name, step));
    };
    return { update, end };
  }

  private finish(pending: readonly Pending[]): void {
    for (const { update, end } of pending) {
      this.rule.apply(update);
      end();
    }
  }

  private finishWaiting(key: string): void {
    const pending = this.waiting.get(key)!;
    this.waiting.delete(key);
    this.rule.joint!.prepare(pending.map(({ update }) => update));
    this.finish(pending);
  }

  /** An update that makes new values. */
  private compute(
    computed: ComputedUpdate,
    values: Readonly<Record<string, number>>,
    parameter: Parameter,
    { step, states }: Progress,
    gradient: AnyTensor,
  ): void {
    const { name, storageDtype } = parameter;
    const rounding = this.isTransient(parameter) ? this.roundingOf(name, step) : undefined;
    const isRandom = rounding?.mode === 'stochastic';
    const scalars = computed.scalars.map((slot) => this.scalars.get(slot, values[slot]));
    const weight = parameter.acquire();
    const own = states.map((state) => state.read());
    const [next, ...changed] = (isRandom ? computed.exact : computed.nearest)(weight, gradient, ...own, ...scalars);
    parameter.release(weight);
    tf.dispose(own);
    changed.forEach((value, i) => states[i].assign(value as tf.Tensor));
    changed.forEach((value) => value.dispose());
    if (next instanceof RawTensor) parameter.replace(next);
    else {
      if (isRandom) parameter.replace(toRaw(next, storageDtype, rounding));
      else masterOf(parameter).assign(next);
      next.dispose();
    }
  }

  private isTransient({ storageDtype }: Parameter): boolean {
    return this.options.masters === 'transient' && storageDtype !== 'float32';
  }

  private roundingOf(name: string, step: number): Rounding | undefined {
    return roundingAt(this.options.rounding, this.visit, [...this.trainable].indexOf(name), step);
  }

  endStep(): void {
    for (const key of [...this.waiting.keys()]) this.finishWaiting(key);
  }

  state(): OptimizerState {
    const steps: JsonObject = {};
    const tensors = new Map<string, StateTensor>();
    for (const [name, parameter] of this.parameters) {
      if (!this.isTransient(parameter)) tensors.set(`${name}.master`, copyOut(masterOf(parameter)));
      const progress = this.progress.get(name);
      if (!progress?.step) continue;
      steps[name] = progress.step;
      progress.states.forEach((state, i) => tensors.set(`${name}.${progress.specs[i].name}`, copyOut(state)));
    }
    const lossScale = this.lossScaler && { lossScale: this.lossScaler.state() };
    return { scalars: { learningRate: this.learningRate, steps, ...lossScale }, tensors };
  }

  restore(state: OptimizerState): void {
    const { learningRate, steps } = state.scalars;
    const problems = this.misfits(steps, state.tensors);
    if (typeof learningRate !== 'number')
      problems.push(`learningRate is ${JSON.stringify(learningRate)}, not a number`);
    problems.push(...(this.lossScaler?.restore(state.scalars.lossScale) ?? []));
    if (problems.length > 0) throw UserError.of('the optimizer state does not fit this run', problems);
    this.learningRate = learningRate as number;
    this.dispose();
    for (const [name, parameter] of this.parameters) {
      if (!this.isTransient(parameter)) copyIn(masterOf(parameter), state.tensors.get(`${name}.master`)!);
      const step = (steps as JsonObject)[name] as number | undefined;
      if (step === undefined) continue;
      const progress = this.begin(parameter);
      progress.step = step;
      progress.states.forEach((variable, i) => copyIn(variable, state.tensors.get(`${name}.${progress.specs[i].name}`)!)); // prettier-ignore
    }
  }

  /** What in a state does not belong to these parameters and this rule. */
  private misfits(steps: JsonValue, tensors: OptimizerState['tensors']): string[] {
    if (!isObject(steps)) return ['it has no step counts'];
    const problems: string[] = [];
    for (const [name, step] of Object.entries(steps)) {
      if (!this.trainable.has(name)) problems.push(`${name} has a step count, but is not trained here`);
      if (!Number.isSafeInteger(step) || (step as number) < 1)
        problems.push(`the step count of ${name} is ${JSON.stringify(step)}, not a positive integer`);
    }
    for (const [name, parameter] of this.parameters) {
      const wanted: StateSpec[] = this.isTransient(parameter) ? [] : [{ name: 'master' }];
      if (name in steps) wanted.push(...this.rule.states(parameter));
      for (const { name: state, shape = parameter.shape, dtype = 'float32' } of wanted) {
        const key = `${name}.${state}`;
        const found = tensors.get(key);
        if (!found) problems.push(`${key} is missing`);
        else if (found.shape.join() !== shape.join())
          problems.push(`${key} has shape [${found.shape}], expected [${shape}]`);
        else if (found.dtype !== dtype || found.bytes.byteLength !== dtypes[dtype].bytes * elementCount(shape))
          problems.push(
            `${key} has ${found.bytes.byteLength} bytes of ${found.dtype}, which is not ${dtype}[${shape}]`,
          );
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
    for (const pending of this.waiting.values()) pending.forEach(({ end }) => end());
    this.waiting.clear();
    for (const { states } of this.progress.values()) states.forEach((state) => state.dispose());
    this.progress.clear();
    this.scalars.dispose();
  }

  private begin(parameter: Parameter): Progress {
    const specs = this.rule.states(parameter);
    const progress = { step: 0, specs, states: specs.map((spec) => zeros(spec, parameter.shape)) };
    this.progress.set(parameter.name, progress);
    return progress;
  }
}

function masterOf({ name, master }: Parameter): Variable {
  if (!master) throw new Error(`internal: ${name} lost its master while it was trained`);
  return master;
}

/** The parameter that a gradient, or its projection, belongs to. */
export function trainedParameter(
  parameters: ReadonlyMap<string, Parameter>,
  name: string,
  gradient: AnyTensor,
  projection?: Projection,
): Parameter {
  const parameter = parameters.get(name);
  if (!parameter) throw new Error(`internal: ${name} is not a parameter that this optimizer trains now`);
  if (![parameter, projection].some((one) => one?.shape.join() === gradient.shape.join()))
    throw new Error(`internal: ${name} of shape [${parameter.shape}] got a gradient of shape [${gradient.shape}]`);
  return parameter;
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

function zeros({ dtype = 'float32', shape }: StateSpec, otherwise: readonly number[]): Variable {
  const dims = [...(shape ?? otherwise)];
  const initial: AnyTensor =
    dtype === 'float32'
      ? tf.fill(dims, 0)
      : RawTensor.fromBytes(new Uint8Array(elementCount(dims) * dtypes[dtype].bytes), dims, dtype);
  const variable = new Variable<AnyTensor>(initial);
  initial.dispose();
  return variable as Variable;
}

function copyOut(variable: Variable<AnyTensor>): StateTensor {
  const { dtype } = variable;
  const values = variable.read();
  const raw = values instanceof RawTensor ? values : takeRaw(values, dtype);
  const bytes = raw.bytes();
  raw.dispose();
  return { dtype, shape: [...variable.shape], bytes };
}

function copyIn(variable: Variable<AnyTensor>, { shape, bytes, dtype }: StateTensor): void {
  const raw = RawTensor.fromBytes(bytes, shape, dtype);
  const values = dtype === 'float32' ? takeFloat32(raw) : raw;
  variable.assign(values);
  values.dispose();
}
