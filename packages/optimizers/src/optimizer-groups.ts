import { isObject, UserError } from '@blockwise/errors';
import type { AnyTensor, Parameter } from '@blockwise/tensorflow';
import type { JsonObject, Optimizer, OptimizerFactory, OptimizerState, Projection } from './optimizer.ts';

/** Parameters and what trains them. */
export interface OptimizerGroup {
  readonly parameters: readonly Parameter[];
  readonly factory: OptimizerFactory;
}

/**
 * One optimizer made of several over disjoint parameters: LOMO for the weights of a model and AdamW for its adapters, say, as in LOMO's
 * repository. The loop sets the first group's learning rate; the others keep the ratio to it that their own `learningRate` options have.
 * @throws UserError where a parameter is in two groups, or no ratio exists because the first group's learning rate is 0.
 */
export function optimizerGroups(groups: readonly OptimizerGroup[]): Optimizer {
  const names = groups.flatMap(({ parameters }) => parameters.map(({ name }) => name));
  const problems = [...new Set(names.filter((name, i) => names.indexOf(name) !== i))].map(
    (name) => `${name} is in more than one group: give each parameter to one optimizer`,
  );
  if (groups.length === 0) problems.push('there is no group, expected at least one');
  if (problems.length > 0) throw UserError.of('the optimizer groups', problems);
  return new OptimizerGroups(groups.map(({ parameters, factory }) => factory(parameters)));
}

class OptimizerGroups implements Optimizer {
  private readonly ratios: readonly number[];

  constructor(private readonly optimizers: readonly Optimizer[]) {
    const [first, ...rest] = optimizers.map(({ learningRate }) => learningRate);
    if (first === 0 && rest.some((rate) => rate !== 0))
      throw new UserError(
        "the first group's learning rate is 0, which others cannot be in proportion to: change the groups' order",
      );
    this.ratios = optimizers.map(({ learningRate }) => (first === 0 ? 1 : learningRate / first));
  }

  get trainable(): ReadonlySet<string> {
    return new Set(this.optimizers.flatMap(({ trainable }) => [...trainable]));
  }

  get learningRate(): number {
    return this.optimizers[0].learningRate;
  }

  set learningRate(value: number) {
    this.optimizers.forEach((optimizer, i) => (optimizer.learningRate = value * this.ratios[i]));
  }

  get fused(): boolean {
    return this.optimizers.some(({ fused }) => fused);
  }

  get lossScaler() {
    return this.optimizers.find(({ lossScaler }) => lossScaler)?.lossScaler;
  }

  beginStep(): void {
    this.optimizers.forEach((optimizer) => optimizer.beginStep());
  }

  update(name: string, gradient: AnyTensor): void {
    this.optimizerOf(name).update(name, gradient);
  }

  projection(name: string): Projection | undefined {
    return this.optimizerOf(name).projection?.(name);
  }

  private optimizerOf(name: string): Optimizer {
    const optimizer = this.optimizers.find(({ trainable }) => trainable.has(name));
    if (!optimizer) throw new Error(`internal: ${name} is not a parameter that this optimizer trains now`);
    return optimizer;
  }

  endStep(): void {
    this.optimizers.forEach((optimizer) => optimizer.endStep());
  }

  state(): OptimizerState {
    const states = this.optimizers.map((optimizer) => optimizer.state());
    return {
      scalars: { groups: states.map(({ scalars }) => scalars) },
      tensors: new Map(states.flatMap(({ tensors }) => [...tensors])),
    };
  }

  restore({ scalars: { groups }, tensors }: OptimizerState): void {
    const { length } = this.optimizers;
    if (!Array.isArray(groups) || groups.length !== length || !groups.every(isObject))
      throw new UserError(`the optimizer state does not fit this run: it is not of ${length} groups`);
    this.optimizers.forEach((optimizer, i) => optimizer.restore({ scalars: groups[i] as JsonObject, tensors }));
  }

  memory(): { masters: number; states: number } {
    const all = this.optimizers.map((optimizer) => optimizer.memory());
    const sum = (key: 'masters' | 'states') => all.reduce((total, held) => total + held[key], 0);
    return { masters: sum('masters'), states: sum('states') };
  }

  dispose(): void {
    this.optimizers.forEach((optimizer) => optimizer.dispose());
  }
}
