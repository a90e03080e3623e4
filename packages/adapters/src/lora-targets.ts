import { UserError } from '@blockwise/errors';
import { linearShapes, type Stage, type StagedModel } from '@blockwise/model-zoo';
import type { Parameter } from '@blockwise/tensorflow';
import { createContext, Script, type Context } from 'node:vm';
import { loraConfigProblems, type LoraConfig } from './lora-config.ts';
import { pythonPattern } from './python-pattern.ts';

/** A linear module that gets an adapter. */
export interface Target {
  /** Hugging Face name: `model.layers.0.self_attn.q_proj`. */
  readonly name: string;
  /** Name inside its stage: `self_attn.q_proj`. */
  readonly local: string;
  readonly shape: readonly [outputs: number, inputs: number];
}

/** A weight or bias of the base of which a copy is trained. */
export interface Copied {
  /** Hugging Face name: `lm_head.weight`. */
  readonly name: string;
  readonly local: string;
  readonly parameter: Parameter;
}

/** What an adapter adds to one stage. */
export interface StagePlan {
  readonly stage: Stage;
  readonly targets: readonly Target[];
  readonly copies: readonly Copied[];
}

/** Hugging Face name of a weight that its stage calls `local`: a tied one has a name of its own in each of its stages. */
export const fullName = (local: string, { name }: Parameter) => (name.endsWith(local) ? name : local);

/** Whether a weight is kept as codes of quantised values. */
export const isPacked = ({ storageDtype }: Parameter) => /^u?int/.test(storageDtype);

/**
 * Finds the modules that a config names, as PEFT does (tuners_utils.py, check_target_module_exists; utils/other.py, _set_trainable).
 * @param origin where the options come from, for messages
 * @throws UserError with every option that is wrong and every name that matches nothing
 */
export function planLora(model: StagedModel, config: LoraConfig, origin = "LoRA's options"): StagePlan[] {
  const problems = [...adapterProblems(model), ...loraConfigProblems(config)];
  const modules = model.stages.map((stage) => linearModules(stage));
  const head = model.stages.length - 1;
  const saves = (name: string) => config.modulesToSave.some((end) => name.endsWith(end));
  const isTarget = targetTest(config, problems);
  const isExcluded = moduleTest(config, 'excludeModules', problems);
  const plans = model.stages.map((stage, index): StagePlan => {
    const candidates = modules[index].filter(({ name }) => !saves(name) && !isExcluded?.(name));
    const inAll = config.targetModules === 'all-linear' && index !== head;
    const targets = candidates.filter(({ name }) => inAll || isTarget?.(name));
    return { stage, targets, copies: copiesOf(stage, targets, config, saves) };
  });
  if (isTarget) problems.push(...unmatchedTargets(modules.flat(), plans, config));
  problems.push(...unmatched(model, modules.flat(), plans, config));
  if (config.loraDropout > 0 && plans[head].targets.length > 0)
    problems.push(
      `loraDropout is ${config.loraDropout}, which ${plans[head].targets[0].name} cannot have: take it from targetModules, or drop nothing`,
    );
  if (problems.length > 0) throw UserError.of(origin, problems);
  return plans;
}

/** What is wrong with a model that has adapters already, where what is made of it would leave them out. */
export function adapterProblems({ stages }: StagedModel): string[] {
  const names = stages.flatMap(({ parameters }) =>
    [...parameters].filter(([local]) => local.endsWith('.lora_A.weight')),
  );
  return names.length > 0
    ? [`the model has an adapter already (${names[0][1].name}): mergeAndUnload() or unload() it`]
    : [];
}

function linearModules(stage: Stage): Target[] {
  return [...linearShapes(stage)].map(([local, shape]) => {
    const weight = `${local}.weight`;
    return { name: moduleOf(fullName(weight, stage.parameters.get(weight)!)), local, shape };
  });
}

/** The module that a weight or bias belongs to. */
const moduleOf = (name: string) => name.slice(0, name.lastIndexOf('.'));

/** Whether a module is told by a name; undefined for an option that is wrong, after its problem has been noted. */
type ModuleTest = ((name: string) => boolean) | undefined;

/** Whether a module is named in targetModules, for those that are names or a regular expression. No layers in a list are all, as in PEFT. */
function targetTest(config: LoraConfig, problems: string[]): ModuleTest {
  const { targetModules, layersToTransform: layers } = config;
  if (targetModules === 'all-linear') return () => false;
  const isNamed = moduleTest(config, 'targetModules', problems);
  if (!isNamed || layers.length === 0) return isNamed;
  return (name) => isNamed(name) && layers.includes(Number(/\.(\d+)\./.exec(name)?.[1]));
}

/** Whether a module is one of those that an option names, by the ends of their names or a regular expression. */
function moduleTest(config: LoraConfig, option: 'targetModules' | 'excludeModules', problems: string[]): ModuleTest {
  const given = config[option];
  if (typeof given !== 'string') return (name) => given.some((end) => isModule(name, end));
  try {
    const context = createContext({ pattern: pythonPattern(given), name: '' });
    return (name) => matches(context, name, option);
  } catch (error) {
    problems.push(`${option} is no regular expression (${(error as Error).message})`);
    return undefined;
  }
}

/** Milliseconds for one name, which take microseconds. */
const patience = 1000;
const test = new Script('pattern.test(name)');

/** @throws UserError where a pattern takes time without end, as ((a+)+)+b may: an adapter's file can come from anybody */
function matches(context: Context, name: string, option: string): boolean {
  context.name = name;
  try {
    return test.runInContext(context, { timeout: patience }) as boolean;
  } catch {
    throw new UserError(`${option}: the regular expression takes more than a second on ${name}: give a simpler one`);
  }
}

const isModule = (name: string, end: string) => name === end || name.endsWith(`.${end}`);

/** Weights and biases trained as copies: those of modulesToSave, and the biases that `bias` asks for. */
function copiesOf(stage: Stage, targets: readonly Target[], { bias }: LoraConfig, saves: (name: string) => boolean) {
  const copies: Copied[] = [];
  for (const [local, parameter] of stage.parameters) {
    const name = fullName(local, parameter);
    const ofTarget = targets.some((target) => target.local === moduleOf(local));
    const asBias = local.endsWith('.bias') && (bias === 'all' || (bias === 'lora_only' && ofTarget));
    if (asBias || saves(moduleOf(name))) copies.push({ name, local, parameter });
  }
  return copies;
}

/** A line for each name in targetModules that matches nothing, or one where none is left of all that match. */
function unmatchedTargets(linear: readonly Target[], plans: readonly StagePlan[], config: LoraConfig) {
  const { targetModules, excludeModules } = config;
  const problems: string[] = [];
  const known = [...new Set(linear.map(({ name }) => name.slice(name.lastIndexOf('.') + 1)))].join(', ');
  const names = typeof targetModules === 'string' ? [] : targetModules;
  for (const end of names)
    if (!linear.some(({ name }) => isModule(name, end)))
      problems.push(
        `targetModules: no linear module is called ${end}; there are ${known}. (modulesToSave trains other modules in full)`,
      );
  const targets = plans.flatMap(({ targets }) => targets);
  const left = excludeModules.length > 0 ? ` that excludeModules ${JSON.stringify(excludeModules)} leaves` : '';
  if (targets.length === 0 && problems.length === 0)
    problems.push(
      `targetModules ${JSON.stringify(targetModules)} matches none of the linear modules (${known})${left}`,
    );
  return problems;
}

/** A line for each module to be trained in full, and each layer, that is not there or cannot be. */
function unmatched(model: StagedModel, linear: readonly Target[], plans: readonly StagePlan[], config: LoraConfig) {
  const { modulesToSave, layersToTransform } = config;
  const problems: string[] = [];
  const all = model.stages.flatMap((stage) =>
    [...stage.parameters].map(([local, parameter]) => moduleOf(fullName(local, parameter))),
  );
  for (const end of modulesToSave)
    if (!all.some((name) => name.endsWith(end))) problems.push(`modulesToSave: no module's name ends with ${end}`);
  for (const { name, parameter } of plans.flatMap(({ copies }) => copies))
    if (isPacked(parameter)) problems.push(`${name} is kept quantised and cannot be trained in full`);
  const layers = new Set(linear.map(({ name }) => Number(/\.(\d+)\./.exec(name)?.[1] ?? NaN)));
  for (const layer of layersToTransform)
    if (!layers.has(layer)) problems.push(`layersToTransform: there is no layer ${layer}`);
  return problems;
}
