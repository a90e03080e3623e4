import { UserError } from '@blockwise/errors';
import {
  matchWeights,
  publish,
  readJsonObject,
  readSafetensorsHeader,
  writeAside,
  writeSafetensors,
  type JsonObject,
  type StagedModel,
} from '@blockwise/model-zoo';
import { cast, MappedFile, toRaw, type RawTensor } from '@blockwise/tensorflow';
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { loraDefaults, type LoraConfig } from './lora-config.ts';
import { applyLora, type Lora, type LoraModel } from './lora-model.ts';
import { fullName } from './lora-targets.ts';
import { atRest } from './parameter-values.ts';

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
  const path = join(folder, configFile);
  const text = JSON.stringify(configJson({ ...lora, targetModules }, baseModelNameOrPath), undefined, 2);
  await writeAside(path, (file) => file.writeFile(`${text}\n`));
  await publish([path]);
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
    bias: lora.bias,
    use_rslora: lora.useRslora,
    modules_to_save: lora.modulesToSave.length > 0 ? lora.modulesToSave : null,
    layers_to_transform: lora.layersToTransform ?? null,
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
  // prettier-ignore
  const lora = readConfig(folder);
  const path = join(folder, weightsFile);
  if (!existsSync(path)) throw new UserError(`${folder}: no ${weightsFile}; in Python, PEFT's save_pretrained() writes one`); // prettier-ignore
  const model = applyLora(base, lora, seed);
  try {
    // Where PEFT adapts the head, it saves the base's weight too.
    const all = [...readSafetensorsHeader(path).entries];
    const entries = all.filter(([name]) => !name.endsWith(ofBase));
    const expected = new Map(model.trainable.map(({ name, shape }) => [name, shape]));
    matchWeights(expected, { folder, entries: new Map(entries) }, { config: configFile });
    const file = MappedFile.open(path);
    try {
      for (const [name, { offset, shape, dtype }] of all) {
        const stored = file.tensor(offset, shape, dtype);
        if (name.endsWith(ofBase)) needSameBase(base, name, stored, path);
        else model.parameters.get(name)!.replace(atRest(cast(stored), 'float32'));
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

const ofBase = '.base_layer.weight';

/** @throws UserError where a weight of the base that the file holds, then disposed of, is not the one that the base has */
function needSameBase({ stages }: StagedModel, name: string, stored: RawTensor, path: string): void {
  const wanted = name.slice(0, -ofBase.length) + '.weight';
  const all = stages.flatMap(({ parameters }) => [...parameters]);
  const own = all.find(([local, parameter]) => wanted.endsWith(`.${fullName(local, parameter)}`))?.[1];
  const values = cast(stored);
  const rounded = own && toRaw(values, own.storageDtype);
  const isSame =
    own && rounded!.shape.join() === own.shape.join() && Buffer.compare(rounded!.bytes(), own.bytes()) === 0;
  [values, rounded].forEach((one) => one?.dispose());
  if (isSame) return;
  stored.dispose();
  throw new UserError(`${path}: ${name} is not the weight that this base has there: the adapter is of another base`);
}

/** Keys that say nothing about the mathematics. */
const harmless = new Set(
  (
    'auto_mapping base_model_name_or_path revision inference_mode task_type peft_version megatron_core ' +
    'qalora_group_size runtime_config'
  ).split(' '),
);

/** PEFT's name -> ours, and what it may be; null stands for the default. */
const fields: Record<string, [ours: keyof LoraConfig, right: (value: unknown) => boolean, expected: string]> = {
  r: ['r', isNumber, 'a number'],
  lora_alpha: ['loraAlpha', isNumber, 'a number'],
  lora_dropout: ['loraDropout', isNumber, 'a number'],
  target_modules: ['targetModules', (x) => typeof x === 'string' || isListOf('string', x), 'names or a regular expression'], // prettier-ignore
  bias: ['bias', (x) => typeof x === 'string', 'none, all or lora_only'],
  use_rslora: ['useRslora', (x) => typeof x === 'boolean', 'true or false'],
  modules_to_save: ['modulesToSave', (x) => isListOf('string', x), 'names'],
  layers_to_transform: ['layersToTransform', (x) => isNumber(x) || isListOf('number', x), 'numbers of layers'],
  init_lora_weights: ['initLoraWeights', () => true, ''],
};

function isNumber(value: unknown): value is number {
  return typeof value === 'number';
}

function isListOf(type: string, value: unknown): boolean {
  return Array.isArray(value) && value.every((item) => typeof item === type);
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
    if (key in fields) {
      const [ours, right, expected] = fields[key];
      if (value === null) continue;
      if (right(value)) lora[ours] = ours === 'layersToTransform' && isNumber(value) ? [value] : value;
      else problems.push(`${key} is ${JSON.stringify(value)}, expected ${expected}`);
    } else if (!isOff && key !== 'peft_type' && !harmless.has(key))
      problems.push(`${key} is ${JSON.stringify(value)}: this is not supported`);
  }
  if (json.target_modules === undefined || json.target_modules === null) problems.push('target_modules is missing');
  if (problems.length > 0) throw UserError.of(path, problems);
  return { ...loraDefaults, ...(lora as Partial<LoraConfig>) };
}
