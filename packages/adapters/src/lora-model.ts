import { linearShapes, plainLinear, type Context, type Stage, type StagedModel } from '@blockwise/model-zoo';
import { Parameter, RawTensor, takeRaw, tf } from '@blockwise/tensorflow';
import { initialAdapter } from './initial-adapter.ts';
import { loraDefaults, loraScaling, type LoraConfig } from './lora-config.ts';
import { dropout, loraLinear } from './lora-layer.ts';
import { planLora, type Copied, type StagePlan, type Target } from './lora-targets.ts';
import { valueOf } from './parameter-values.ts';
import { mergeStages, type MergedStages } from './merge.ts';

/** The two factors of one module's update. */
export interface Adapter extends Target {
  /** float32 [r, inputs] */
  readonly a: Parameter;
  /** float32 [outputs, r] */
  readonly b: Parameter;
}

/** A trained copy, float32, of a weight or bias of the base. */
export interface TrainedCopy extends Copied {
  readonly copy: Parameter;
}

/** One stage of the base with what is trained in it. */
export interface AdaptedStage {
  readonly stage: Stage;
  readonly adapters: readonly Adapter[];
  readonly copies: readonly TrainedCopy[];
}

/** What applyLora() adds to a model. */
export interface Lora<Model extends StagedModel = StagedModel> {
  readonly lora: LoraConfig;
  /** What an optimizer gets: adapters and copies, float32. The base's own weights stay as they are. */
  readonly trainable: readonly Parameter[];
  readonly adapted: readonly AdaptedStage[];
  /** Whether `stages` has merged weights at present. */
  readonly merged: boolean;
  /**
   * From now on `stages` has W + s B A, rounded to the base's dtype, in place of adapters: evaluation and generation cost what they cost
   * without. Meanwhile the adapted weights are in memory twice, so that unmerge() brings back the base's bits. Make walks and decoders anew.
   */
  merge(): void;
  /** Undoes merge(). */
  unmerge(): void;
  /** Frees what was added and gives the base back as it was. */
  unload(): Model;
}

/** A model with adapters: what the base has (its config, say), its stages wrapped, its parameters and those of the adapter. */
export type LoraModel<Model extends StagedModel = StagedModel> = Model & Lora<Model>;

/** PEFT's names begin with it: a PeftModel's base_model is a LoraModel, whose `model` is transformers'. */
export const prefix = 'base_model.model.';

/**
 * Puts LoRA adapters (arXiv 2106.09685) beside linear modules of a model, as PEFT's get_peft_model() does. Takes over `base`, whose weights
 * stay frozen in their dtype. Names of what is added are those of PEFT's files:
 * `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`.
 * @param options default: loraDefaults
 * @param seed an integer that decides the initial adapters and the dropout masks
 * @throws UserError with all options that are unknown, wrong or match nothing; `base` is then still the caller's
 */
export function applyLora<Model extends StagedModel>(
  base: Model,
  options: Partial<LoraConfig> = {},
  seed = 0,
): LoraModel<Model> {
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  const lora = { ...loraDefaults, ...given };
  return adapt(base, planLora(base, lora), lora, seed);
}

/** applyLora() of options whose plan is made. */
export function adapt<Model extends StagedModel>(
  base: Model,
  plans: readonly StagePlan[],
  lora: LoraConfig,
  seed: number,
): LoraModel<Model> {
  const adapted = plans.map((plan, index) => adaptStage(plan, lora, [seed, index]));
  const wrapped = adapted.map((stage, index) => wrapStage(stage, lora, [seed, index]));
  const trainable = adapted.flatMap(({ adapters, copies }) => [
    ...adapters.flatMap(({ a, b }) => [a, b]),
    ...copies.map(({ copy }) => copy),
  ]);
  let merged: MergedStages | undefined;
  const unmerge = () => {
    merged?.dispose();
    merged = undefined;
  };
  const unload = () => {
    unmerge();
    wrapped.forEach(({ parameters }) => parameters.get(place)?.dispose());
    trainable.forEach((parameter) => parameter.dispose());
    return base;
  };
  const members: StagedModel & Lora<Model> = {
    lora,
    trainable,
    adapted,
    parameters: new Map([...base.parameters, ...trainable.map((parameter) => [parameter.name, parameter] as const)]),
    get stages() {
      return merged?.stages ?? wrapped;
    },
    get merged() {
      return merged !== undefined;
    },
    context: (layout) => [...base.context(layout), ...seedTensor(lora, layout.dropoutSeed)],
    merge: () => void (merged ??= mergeStages(adapted, lora)),
    unmerge,
    unload,
    dispose: () => unload().dispose(),
  };
  return Object.defineProperties({ ...base }, Object.getOwnPropertyDescriptors(members)) as LoraModel<Model>;
}

/** Two integers that no other stage's modules have, if each adds less than 4096 to the second. */
type StageSeeds = readonly [seed: number, stage: number];
const seedsOf = ([seed, stage]: StageSeeds, module: number) => [seed | 0, stage * 4096 + module] as const;

function adaptStage({ stage, targets, copies }: StagePlan, lora: LoraConfig, seeds: StageSeeds): AdaptedStage {
  const modules = [...linearShapes(stage).keys()];
  const adapters = targets.map((target): Adapter => {
    const { a, b } = initialAdapter(target.shape, lora, seedsOf(seeds, modules.indexOf(target.local)));
    const name = `${prefix}${target.name}`;
    return { ...target, a: new Parameter(`${name}.lora_A.weight`, a), b: new Parameter(`${name}.lora_B.weight`, b) };
  });
  const copied = copies.map((copied): TrainedCopy => {
    // PEFT keeps an adapted module and its bias in a `base_layer`.
    const inside = targets.some(({ local }) => copied.local === `${local}.bias`);
    const name = inside ? copied.name.replace(/bias$/, 'base_layer.bias') : copied.name;
    return { ...copied, copy: new Parameter(`${prefix}${name}`, takeRaw(valueOf(copied.parameter), 'float32')) };
  });
  return { stage, adapters, copies: copied };
}

/** Name of the weight, int32 scalar, from which a stage's masks are drawn: stages of one kind share functions, masks differ. */
const place = 'lora_dropout_place';

/** The stage over copies and adapters, where it has some. */
function wrapStage({ stage, adapters, copies }: AdaptedStage, lora: LoraConfig, seeds: StageSeeds): Stage {
  if (adapters.length === 0 && copies.length === 0) return stage;
  const parameters = new Map(stage.parameters);
  for (const { local, copy } of copies) parameters.set(local, copy);
  for (const { local, a, b } of adapters) parameters.set(`${local}.lora_A.weight`, a).set(`${local}.lora_B.weight`, b);
  if (lora.loraDropout > 0) {
    const [seed, first] = seedsOf(seeds, 0);
    const value = Int32Array.of(Math.imul(seed, 0x9e3779b1) + first);
    const stored = RawTensor.fromBytes(new Uint8Array(value.buffer), [], 'int32');
    parameters.set(place, new Parameter(`${prefix}${stage.name}.${place}`, stored));
  }
  const locals = adapters.map(({ local }) => local);
  const base = stage.linear ?? plainLinear;
  const scaling = loraScaling(lora);
  return {
    ...stage,
    kind: [stage.kind, 'lora', ...locals].join(' '),
    parameters,
    linear: loraLinear(base, scaling),
    linearShapes: linearShapes(stage),
    operandBytes: stage.operandBytes,
    forward(weights, x, context, linear) {
      const seed = seedIn(context);
      const mask = (name: string, x: tf.Tensor2D) =>
        dropout(x, lora.loraDropout, [seed!, tf.add(weights[place], tf.scalar(locals.indexOf(name), 'int32'))]);
      // A linear layer that is given was made around this stage's own, adapters included.
      return stage.forward(weights, x, context, linear ?? loraLinear(base, scaling, seed && mask));
    },
  };
}

/** What the context has at its end where something is dropped: the batch's seed, an int32 scalar. */
function seedTensor({ loraDropout }: LoraConfig, dropoutSeed: number | undefined): tf.Tensor[] {
  return loraDropout > 0 && dropoutSeed !== undefined ? [tf.scalar(dropoutSeed | 0, 'int32')] : [];
}

function seedIn(context: Context): tf.Tensor | undefined {
  const last = context.at(-1);
  return last?.dtype === 'int32' && last.rank === 0 ? last : undefined;
}
