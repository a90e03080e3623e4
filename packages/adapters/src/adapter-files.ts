import { UserError } from '@blockwise/errors';
import {
  matchWeights,
  readJsonObject,
  readSafetensorsHeader,
  writeFileAside,
  writeSafetensors,
  type JsonObject,
  type StagedModel,
} from '@blockwise/model-zoo';
import { cast, MappedFile, takeRaw, toRaw, type Parameter, type RawTensor } from '@blockwise/tensorflow';
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { loraDefaults, type LoraConfig } from './lora-config.ts';
import { adapt, prefix, type Lora, type LoraModel } from './lora-model.ts';
import { fullName, planLora } from './lora-targets.ts';

const configFile = 'adapter_config.json';
const weightsFile = 'adapter_model.safetensors';
const maxConfigBytes = 1_000_000;

/**
 * Saves an adapter as PEFT does, loadable by both: adapter_config.json and adapter_model.safetensors (float32) with what was trained, and
 * nothing of the base. Each file is complete or absent.
 * @param baseModelNameOrPath where PEFT finds the base if it is not given one
 */
export async function saveAdapter(
  folder: string,
  { lora, trainable, adapted }: Lora,
  { baseModelNameOrPath = null }: { baseModelNameOrPath?: string | null } = {},
): Promise<void> {
  await mkdir(folder, { recursive: true });
  await writeSafetensors(
    join(folder, weightsFile),
    trainable.map((p) => [p.name, { dtype: 'float32', shape: p.shape, bytes: () => p.bytes() }] as const),
  );
  // PEFT writes 'all-linear' out.
  const lastPart = (name: string) => name.slice(name.lastIndexOf('.') + 1);
  const targets = adapted.flatMap(({ adapters }) => adapters.map(({ name }) => lastPart(name)));
  const targetModules = lora.targetModules === 'all-linear' ? [...new Set(targets)] : lora.targetModules;
  const text = JSON.stringify(configJson({ ...lora, targetModules }, baseModelNameOrPath), undefined, 2);
  await writeFileAside(join(folder, configFile), `${text}\n`);
}

function configJson(lora: LoraConfig, baseModelNameOrPath: string | null): JsonObject {
  return {
    peft_type: 'LORA',
    task_type: 'CAUSAL_LM',
    base_model_name_or_path: baseModelNameOrPath,
    inference_mode: true,
    r: lora.r,
    lora_alpha: lora.loraAlpha,
    lora_dropout: lora.loraDropout,
    target_modules: lora.targetModules,
    exclude_modules: lora.excludeModules.length > 0 ? lora.excludeModules : null,
    bias: lora.bias,
    use_rslora: lora.useRslora,
    modules_to_save: lora.modulesToSave.length > 0 ? lora.modulesToSave : null,
    layers_to_transform: lora.layersToTransform.length > 0 ? lora.layersToTransform : null,
    init_lora_weights: lora.initLoraWeights,
    fan_in_fan_out: false,
    use_dora: false,
  };
}

/**
 * Loads an adapter that PEFT or saveAdapter() wrote onto a base, which is taken over; weights of 16 bit become float32.
 * @param options.seed decides the dropout masks of further training
 * @throws UserError naming all options of adapter_config.json that are not understood, or all weights that do not fit; `base` is then still
 * the caller's
 */
export function loadAdapter<Model extends StagedModel>(
  base: Model,
  folder: string,
  { seed = 0 }: { seed?: number } = {},
): LoraModel<Model> {
  const lora = readConfig(folder);
  const path = join(folder, weightsFile);
  if (!existsSync(path)) throw new UserError(`${folder}: no ${weightsFile}; in Python, PEFT's save_pretrained() writes one`); // prettier-ignore
  const all = [...readSafetensorsHeader(path).entries];
  const ranks = all.filter(([name]) => name.endsWith('.lora_A.weight')).map(([, { shape }]) => shape[0]);
  // What follows takes memory for this rank before it looks at the weights.
  if (ranks.length > 0 && ranks.every((rank) => rank < lora.r))
    throw new UserError(`${join(folder, configFile)}: r is ${lora.r}, more than ${weightsFile} beside it has: the two are of different adapters`); // prettier-ignore
  const model = adapt(base, planLora(base, lora, join(folder, configFile)), lora, seed);
  try {
    const trained = new Map(model.trainable.map((parameter) => [parameter.name, parameter]));
    // PEFT saves the base's weight too where it adapts the head, and embedding and head with save_embedding_layers.
    const frozen = weightsOf(base);
    const ownOf = (name: string) => (trained.has(name) ? undefined : frozen.get(name.replace('.base_layer.', '.')));
    const entries = all.filter(([name]) => !ownOf(name));
    const expected = new Map([...trained].map(([name, { shape }]) => [name, shape]));
    matchWeights(expected, { folder, entries: new Map(entries) }, { config: configFile });
    const file = MappedFile.open(path);
    try {
      for (const [name, { offset, shape, dtype }] of all) {
        const stored = file.tensor(offset, shape, dtype);
        const own = ownOf(name);
        if (own) needSameBase(own, name, stored, path);
        else trained.get(name)!.replace(takeRaw(cast(stored), 'float32'));
        stored.dispose();
      }
    } finally {
      file.close();
    }
    return model;
  } catch (error) {
    model.unload();
    throw error;
  }
}

/** A model's weights by the names that PEFT's files have for them. */
function weightsOf({ stages }: StagedModel): Map<string, Parameter> {
  const all = stages.flatMap(({ parameters }) => [...parameters]);
  return new Map(all.map(([local, parameter]) => [prefix + fullName(local, parameter), parameter]));
}

/** @throws UserError where a weight that the file holds, then disposed of, is not `own`, the one that the base has */
function needSameBase(own: Parameter, name: string, stored: RawTensor, path: string): void {
  const values = cast(stored);
  const rounded = toRaw(values, own.storageDtype);
  const isSame = rounded.shape.join() === own.shape.join() && Buffer.compare(rounded.bytes(), own.bytes()) === 0;
  [values, rounded].forEach((one) => one.dispose());
  if (isSame) return;
  stored.dispose();
  throw new UserError(
    `${path}: ${name} is not the weight that this base has there: the adapter is of another base, or trained the module, which ` +
      `modules_to_save in ${configFile} has to name then`,
  );
}

/** Keys that say nothing about the mathematics; those of an init_lora_weights say how adapters began. */
const harmless = new Set(
  (
    'auto_mapping base_model_name_or_path revision inference_mode task_type peft_version megatron_core ' +
    'qalora_group_size runtime_config corda_config eva_config loftq_config lora_ga_config'
  ).split(' '),
);

/**
 * What init_lora_weights may be: adapters began so beside the base's own weights (PEFT's lora/layer.py, update_layer), and the option of ours
 * that comes nearest. The others change the base (pissa, olora, corda, loftq, lora_ga) or freeze B (mica).
 */
const initialWeights = new Map<unknown, LoraConfig['initLoraWeights']>([
  [true, true],
  [false, false],
  ['gaussian', 'gaussian'],
  ['eva', true],
  ['orthogonal', false],
]);

/** PEFT's name -> ours, how a value is read (undefined: not at all), and what it may be; null stands for the default. */
const fields: Record<string, [ours: keyof LoraConfig, read: (value: unknown) => unknown, expected: string]> = {
  r: ['r', (x) => ofType('number', x), 'a number'],
  lora_alpha: ['loraAlpha', (x) => ofType('number', x), 'a number'],
  lora_dropout: ['loraDropout', (x) => ofType('number', x), 'a number'],
  target_modules: ['targetModules', namesOrPattern, 'names or a regular expression'],
  exclude_modules: ['excludeModules', namesOrPattern, 'names or a regular expression'],
  bias: ['bias', (x) => ofType('string', x), 'none, all or lora_only'],
  use_rslora: ['useRslora', (x) => ofType('boolean', x), 'true or false'],
  modules_to_save: ['modulesToSave', (x) => listOf('string', x), 'names'],
  layers_to_transform: ['layersToTransform', (x) => listOf('number', [x].flat()), 'numbers of layers'],
  init_lora_weights: ['initLoraWeights', (x) => initialWeights.get(x), [...initialWeights.keys()].join(', ')],
};

function ofType(type: string, value: unknown): unknown {
  return typeof value === type ? value : undefined;
}

function listOf(type: string, value: unknown): unknown {
  return Array.isArray(value) && value.every((item) => typeof item === type) ? value : undefined;
}

function namesOrPattern(value: unknown): unknown {
  return ofType('string', value) ?? listOf('string', value);
}

/** Whether a key says what is so in any Llama: where its layers are is what layers_pattern tells. */
function isOfLlama(key: string, value: unknown): boolean {
  return key === 'layers_pattern' && [value].flat().includes('layers');
}

/** adapter_config.json as options. Keys of methods that are not there (DoRA, say) are refused unless they are switched off. */
function readConfig(folder: string): LoraConfig {
  const path = join(folder, configFile);
  if (!existsSync(path)) throw new UserError(`${folder}: no ${configFile}: it is no folder of a PEFT adapter`);
  const json = readJsonObject(path, maxConfigBytes);
  const problems: string[] = [];
  const lora: Partial<Record<keyof LoraConfig, unknown>> = {};
  if (json.peft_type !== 'LORA')
    problems.push(`peft_type is ${JSON.stringify(json.peft_type)}, only LORA can be loaded`);
  for (const [key, value] of Object.entries(json)) {
    const isOff = value === null || value === false || (typeof value === 'object' && Object.keys(value).length === 0);
    if (Object.hasOwn(fields, key)) {
      const [ours, read, expected] = fields[key];
      if (value === null) continue;
      lora[ours] = read(value);
      if (lora[ours] === undefined) problems.push(`${key} is ${JSON.stringify(value)}, expected ${expected}`);
    } else if (!isOff && key !== 'peft_type' && !harmless.has(key) && !isOfLlama(key, value))
      problems.push(`${key} is ${JSON.stringify(value)}: this is not supported`);
  }
  if (json.target_modules === undefined || json.target_modules === null) problems.push('target_modules is missing');
  if (problems.length > 0) throw UserError.of(path, problems);
  return { ...loraDefaults, ...(lora as Partial<LoraConfig>) };
}
