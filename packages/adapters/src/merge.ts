import { UserError } from '@blockwise/errors';
import {
  createLlama,
  linearShapes,
  llamaWeightShapes,
  plainLinear,
  stageWeights,
  type Llama,
  type Stage,
} from '@blockwise/model-zoo';
import { matMul2d, Parameter, takeRaw, tf, type DType, type RawTensor } from '@blockwise/tensorflow';
import { loraScaling, type LoraConfig } from './lora-config.ts';
import type { AdaptedStage, Adapter, LoraModel } from './lora-model.ts';
import { fullName, isPacked } from './lora-targets.ts';
import { valueOf } from './parameter-values.ts';
import { withExactInputs } from './quantize-model.ts';

/** Stages with merged weights in place of adapters, and what frees those weights. */
export interface MergedStages {
  readonly stages: readonly Stage[];
  dispose(): void;
}

/**
 * The base's stages with W + s B A for adapted weights W, in W's dtype, and with trained copies for what they are copies of.
 * @throws UserError where an adapted weight is quantised
 */
export function mergeStages(adapted: readonly AdaptedStage[], lora: LoraConfig): MergedStages {
  for (const { stage, adapters } of adapted)
    for (const { local, name } of adapters)
      if (isPacked(stage.parameters.get(`${local}.weight`)!))
        throw new UserError(`${name} is quantised: mergeAndUnload() makes a model of it that is not`);
  const made: Parameter[] = [];
  const stages = adapted.map(({ stage, adapters, copies }): Stage => {
    const parameters = new Map(stage.parameters);
    for (const { local, copy } of copies) parameters.set(local, copy);
    for (const adapter of adapters) {
      const local = `${adapter.local}.weight`;
      const weight = stage.parameters.get(local)!;
      const merged = mergedWeight(stage, adapter.local, adapter, lora, weight.storageDtype);
      parameters.set(local, new Parameter(`${adapter.name}.weight`, merged));
      made.push(parameters.get(local)!);
    }
    return { ...stage, parameters };
  });
  return { stages, dispose: () => made.forEach((parameter) => parameter.dispose()) };
}

/**
 * A Llama with the updates folded into its weights and with trained copies in place of what they are copies of. Consumes `model`. Where one of
 * two tied weights was changed, they are tied no longer (PEFT's merge_and_unload() unties them too).
 * @param dtype of weights that are quantised in the base (default: the embedding's); the others keep theirs
 * @throws UserError where the base is no plain Llama (a BitNet), which folded weights alone would not be
 */
export function mergeAndUnload(model: LoraModel<Llama>, dtype?: DType): Llama {
  const known = new Set([...llamaWeightShapes(model.config).keys(), 'lm_head.weight']);
  const foreign = model.adapted.flatMap(({ stage: { parameters } }) =>
    [...parameters]
      .map(([local, parameter]) => fullName(local, parameter))
      .filter((name) => /_norm\.weight$/.test(name) && !known.has(name)),
  );
  if (foreign.length > 0)
    throw new UserError(
      `the base has ${foreign[0]}, which no plain Llama has: its adapters cannot be folded into one; save them instead`,
    );
  model.unmerge();
  const [embedding] = model.adapted[0].stage.parameters.values();
  const unpacked = dtype ?? embedding.storageDtype;
  const weights = new Map<string, RawTensor>();
  const unchanged: { name: string; parameter: Parameter }[] = [];
  for (const { stage, adapters, copies } of model.adapted) {
    for (const [local, parameter] of stage.parameters) {
      const [, module, kind] = /^(.*)\.(weight|bias)$/.exec(local) ?? [];
      if (!kind) continue; // what goes with a quantised weight
      const name = fullName(local, parameter);
      const target = isPacked(parameter) ? unpacked : parameter.storageDtype;
      const copied = copies.find((copied) => copied.local === local);
      const adapter = kind === 'weight' ? adapters.find((adapter) => adapter.local === module) : undefined;
      if (copied) weights.set(name, takeRaw(valueOf(copied.copy), target));
      else if (adapter || isPacked(parameter))
        weights.set(name, mergedWeight(stage, module, adapter, model.lora, target));
      else unchanged.push({ name, parameter });
      // A tied weight is still needed by its other stage.
      if (weights.has(name) && name === parameter.name && !tiedIn(model, parameter)) parameter.dispose();
    }
  }
  const taken = new Set<Parameter>();
  for (const { name, parameter } of unchanged) {
    if (taken.has(parameter)) continue;
    weights.set(name, parameter.take());
    taken.add(parameter);
  }
  const { config } = model;
  const tied = config.tie_word_embeddings && !weights.has('lm_head.weight');
  model.dispose();
  return createLlama({ ...config, tie_word_embeddings: tied }, weights);
}

/** W, and s B A where there is an adapter, added in float32 and rounded. */
function mergedWeight(stage: Stage, module: string, adapter: Adapter | undefined, lora: LoraConfig, dtype: DType) {
  const weight = weightOf(stage, module);
  if (!adapter) return takeRaw(weight, dtype);
  const [a, b] = [valueOf(adapter.a), valueOf(adapter.b)];
  const sum = tf.tidy(() => tf.add(weight, tf.mul(matMul2d(b, a), loraScaling(lora))));
  tf.dispose([weight, a, b]);
  return takeRaw(sum, dtype);
}

const tiedIn = ({ adapted }: LoraModel, parameter: Parameter) =>
  adapted.filter(({ stage }) => [...stage.parameters.values()].includes(parameter)).length > 1;

/** float32 [outputs, inputs]: a quantised module's is what the module makes of the identity. */
function weightOf(stage: Stage, module: string): tf.Tensor {
  const parameter = stage.parameters.get(`${module}.weight`)!;
  if (!isPacked(parameter)) return valueOf(parameter);
  const inputs = linearShapes(stage).get(module)![1];
  const own = [...stage.parameters].filter(([local]) => local.startsWith(`${module}.`) && local !== `${module}.bias`);
  const stored = own.map(([local, parameter]) => [local, parameter, parameter.acquire()] as const);
  const weight = tf.tidy(() => {
    const weights = stageWeights(stored.map(([local, , value]) => [local, value] as const));
    return tf.transpose(withExactInputs(stage.linear ?? plainLinear)(module, tf.eye(inputs), weights));
  });
  stored.forEach(([, parameter, value]) => parameter.release(value));
  return weight;
}
