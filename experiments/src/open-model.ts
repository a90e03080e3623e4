import { UserError } from '@blockwise/errors';
import {
  applyLora,
  loadAdapter,
  mergeAndUnload,
  quantizeModelNf4,
  saveAdapter,
  type LoraConfig,
  type LoraModel,
} from '@blockwise/adapters';
import {
  bitNetFromLlama,
  openBitNet,
  openLlama,
  packBitNet,
  readJsonObject,
  saveLlama,
  type Llama,
  type OpenedLlama,
} from '@blockwise/model-zoo';
import { join } from 'node:path';
import type { Parameter } from '@blockwise/tensorflow';
import type { Options } from './options.ts';

/** A model as a method trains it, and how it is kept. */
export interface TrainedModel {
  readonly model: Llama;
  /** What is trained, now or in its turn; the rest stays as it is. */
  readonly parameters: readonly Parameter[];
  /** One line for each oddity of its files that changes nothing. */
  readonly warnings: readonly string[];
  /** Writes what may have been trained, so that opening it again goes on from the same bits (masters excepted). */
  save(folder: string): Promise<void>;
  /** Writes the model that --export_dir asks for. The model is used up. */
  export?(folder: string): Promise<void>;
}

/**
 * Opens the model of a folder for a method: as it was before training, or as a checkpoint has it.
 * @throws UserError for files that are no such model, and for options that do not fit it
 */
export type OpenModel = (options: Options, folder: string, checkpoint?: string) => TrainedModel;

/** How weights are kept at rest. */
export const storageOf = ({ bf16, fp16 }: Options) => (fp16 ? 'float16' : bf16 ? 'bfloat16' : 'float32');

/** All of the model trains. */
export const openWhole: OpenModel = (options, folder, checkpoint) =>
  whole(openBase(options, checkpoint ?? folder), folder);

const openBase = (options: Options, folder: string) =>
  openLlama(folder, { dtype: storageOf(options), streamed: options.streamed, computeDtype: options.computeDtype });

function whole(opened: OpenedLlama, source: string): TrainedModel {
  return {
    model: opened.model,
    parameters: [...opened.model.parameters.values()],
    warnings: opened.warnings,
    save: (folder) => saveLlama(folder, opened, source),
  };
}

/** Some layers train, as LLaMA-Factory's freeze tuning chooses them. */
export const openFrozen: OpenModel = (options, folder, checkpoint) => {
  const opened = openWhole(options, folder, checkpoint);
  const chosen = unfrozen([...opened.model.parameters.keys()], opened.model.config.num_hidden_layers, options);
  return { ...opened, parameters: opened.parameters.filter(({ name }) => chosen.has(name)) };
};

/** LLaMA-Factory, model/adapter.py: names that contain `.<layer>.<module>`, and extra modules outside of the layers. */
function unfrozen(names: readonly string[], layers: number, options: Options): Set<string> {
  const { freezeTrainableLayers: count, freezeTrainableModules, freezeExtraModules } = options;
  const first = count > 0 ? Math.max(0, layers - count) : 0;
  const last = count > 0 ? layers : Math.min(layers, -count);
  const inLayer = names.map((name) => ({ name, place: /\.(\d+)\.([^.]+)\./.exec(name) }));
  const modules = new Set(inLayer.flatMap(({ place }) => (place ? [place[2]] : [])));
  const outside = new Set(inLayer.flatMap(({ name, place }) => (place ? [] : [name.split('.').at(-2)!])));
  const problems = [
    ...unknown('--freeze_trainable_modules', freezeTrainableModules, ['all', ...modules]),
    ...unknown('--freeze_extra_modules', freezeExtraModules ?? [], [...outside]),
  ];
  if (problems.length > 0) throw new UserError(problems.join('\n'));
  const all = freezeTrainableModules.includes('all');
  const chosen = inLayer.filter(({ name, place }) => {
    if (!place) return freezeExtraModules?.includes(name.split('.').at(-2)!);
    const layer = Number(place[1]);
    return layer >= first && layer < last && (all || freezeTrainableModules.includes(place[2]));
  });
  return new Set(chosen.map(({ name }) => name));
}

function unknown(option: string, given: readonly string[], known: readonly string[]): string[] {
  const wrong = given.filter((name) => !known.includes(name));
  return wrong.length === 0 ? [] : [`${option}: the model has no ${wrong.join(', ')}; it has ${known.join(', ')}`];
}

/** Adapters train beside frozen weights; with --lora_only false the weights train too. */
export const openLora: OpenModel = (options, folder, checkpoint) => {
  if (options.loraOnly) return adapted(openBase(options, folder), options, folder, checkpoint);
  const base = openBase(options, checkpoint ?? folder);
  const weights = whole(base, folder);
  const adapter = adapted(base, options, folder, checkpoint);
  const save = async (into: string) => {
    await weights.save(into);
    await adapter.save(into);
  };
  return { ...adapter, save, parameters: [...adapter.parameters, ...weights.parameters] };
};

/** The same beside weights in 4 bits. */
export const openQlora: OpenModel = (options, folder, checkpoint) => {
  const { model, ...rest } = openBase(options, folder);
  const quantized = quantizeModelNf4(model, { doubleQuantization: options.doubleQuantization });
  return adapted({ ...rest, model: quantized }, options, folder, checkpoint);
};

/** Adapters beside the weights of `base`, which is taken over: fresh ones, those of --adapter_name_or_path (a folder by now), or a checkpoint's. */
function adapted(base: OpenedLlama, options: Options, source: string, checkpoint?: string): TrainedModel {
  const trained = checkpoint ?? options.adapterNameOrPath;
  const model = trained ? loadAdapter(base.model, trained, { seed: options.seed }) : freshAdapters(base.model, options);
  return {
    model,
    parameters: model.trainable,
    warnings: base.warnings,
    // PEFT looks for the base there: embedded is a name of ours.
    save: (folder) =>
      saveAdapter(folder, model, {
        baseModelNameOrPath: options.modelNameOrPath === 'embedded' ? source : options.modelNameOrPath,
      }),
    export: async (folder) => {
      model.parameters.forEach((parameter) => parameter.deactivate());
      const merged = mergeAndUnload(model);
      await saveLlama(folder, { model: merged, json: base.json }, source);
      merged.dispose();
    },
  };
}

function freshAdapters(base: Llama, options: Options): LoraModel<Llama> {
  const { loraRank, loraAlpha, loraTarget, additionalTarget } = options;
  const config: Partial<LoraConfig> = {
    r: loraRank,
    loraAlpha: loraAlpha ?? 2 * loraRank,
    loraDropout: options.loraDropout,
    targetModules: loraTarget.includes('all') ? 'all-linear' : loraTarget,
    modulesToSave: additionalTarget ?? [],
    bias: options.loraBias,
    useRslora: options.useRslora,
  };
  return applyLora(base, config, options.seed);
}

/** Whether a model's folder, by its config.json, holds a BitNet. */
export const isBitNet = (folder: string) =>
  readJsonObject(join(folder, 'config.json'), 2 ** 20).model_type === 'bitnet';

/** Linear layers become BitLinear: ternary weights, 8-bit activations. A folder that holds a BitNet is one already. */
export const openBitnet: OpenModel = (options, folder, checkpoint) => {
  const from = checkpoint ?? folder;
  const opened = isBitNet(from)
    ? openBitNet(from, { dtype: storageOf(options), streamed: options.streamed })
    : bitNetFromLlama(openBase(options, from));
  const packed = (into: string) => saveLlama(into, packBitNet(opened), folder);
  return { ...whole(opened, folder), export: packed };
};
