import { UserError } from '@blockwise/errors';
import { takeFloat32, takeRaw, type Parameter, type RawTensor } from '@blockwise/tensorflow';
import { existsSync } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { writeFileAside } from './atomic-file.ts';
import { llamaTiedWeights, llamaWeightShapes, type WeightDtype } from './config.ts';
import { readLlamaConfig, writeConfig, type LlamaConfigFile } from './config-file.ts';
import type { JsonObject } from './json-object.ts';
import { createLlama, type ComputeDtype, type Llama } from './llama.ts';
import type { WritableTensor } from './safetensors.ts';
import { areEqual, matchWeights, openWeights, saveWeights, type Weights } from './weights.ts';

/** A Llama opened from a folder, with what its files said. */
export interface OpenedLlama {
  readonly model: Llama;
  /** config.json as it was read, for saveLlama(). */
  readonly json: JsonObject;
  /** One line for each oddity that does not keep it from being opened. */
  readonly warnings: readonly string[];
}

/**
 * Opens a Llama in Hugging Face layout. Weights stored in `dtype` stay in the mapped file until used; others are converted, one at a time.
 * @param dtype how weights are kept at rest; default: as they are stored
 * @param streamed pages of weights that stay in the file leave memory after each use: frozen weights then take no memory to speak of,
 * and a step reads them from the file (or the system's page cache) anew
 * @param computeDtype what linear layers multiply in; default float32
 * @throws UserError naming the file and all that is wrong with it
 */
export function openLlama(
  folder: string,
  { dtype, streamed, computeDtype }: { dtype?: WeightDtype; streamed?: boolean; computeDtype?: ComputeDtype } = {},
): OpenedLlama {
  const read = readLlamaConfig(folder);
  const files = openWeights(folder);
  try {
    const { config, json, warnings } = tiedAsStored(read, files);
    const expected = llamaWeightShapes(config);
    const sources = matchWeights(expected, files, { tied: llamaTiedWeights(config) });
    const weights = new Map<string, RawTensor>();
    for (const [name, source] of sources) weights.set(name, weightInDtype(files.tensor(source, { streamed }), dtype));
    return { model: createLlama(config, weights, { computeDtype }), json, warnings };
  } finally {
    files.close();
  }
}

/**
 * A config whose head is tied only where the weights agree: a file that holds a head unlike the embedding has one that was trained, whatever
 * its config.json says (transformers 5 does not tie them either; modeling_utils.py, tie_weights).
 */
export function tiedAsStored<File extends LlamaConfigFile>(read: File, { entries }: Weights): File {
  for (const [alias, name] of llamaTiedWeights(read.config)) {
    const [own, other] = [entries.get(alias), entries.get(name)];
    if (!own || !other || areEqual(own, other)) continue;
    const warning = `tie_word_embeddings is true, but ${alias} and ${name} differ: they are not tied`;
    return { ...read, config: { ...read.config, tie_word_embeddings: false }, warnings: [...read.warnings, warning] };
  }
  return read;
}

/** A stored weight in another dtype; consumes it. */
export function weightInDtype(stored: RawTensor, dtype: WeightDtype | undefined): RawTensor {
  if (!dtype || stored.dtype === dtype) return stored;
  return takeRaw(takeFloat32(stored), dtype);
}

/** Files beside the weights that a model folder takes along. */
const companions = [
  'generation_config.json',
  'tokenizer.json',
  'tokenizer.model',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'chat_template.jinja',
];

/**
 * Saves a model in Hugging Face layout, loadable by transformers: config.json, weights in their storage dtype (masters rounded to nearest),
 * and the tokenizer files of `source`, where given. Each file is complete or absent.
 * @throws UserError where the model has other weights than its files have names for: those of an adapter, or quantised ones
 */
export async function saveLlama(folder: string, { model, json }: Pick<OpenedLlama, 'model' | 'json'>, source?: string) {
  checkSavable(folder, model);
  await mkdir(folder, { recursive: true });
  const parameters = [...model.parameters.values()];
  await saveWeights(folder, parameters.map((parameter) => [parameter.name, writable(parameter)] as const)); // prettier-ignore
  // A head that was trained apart from the embedding is tied to it no longer.
  const untied = json.tie_word_embeddings === true && !model.config.tie_word_embeddings;
  const written = untied ? { ...json, tie_word_embeddings: false } : json;
  await writeConfig(folder, written, parameters[0].storageDtype as WeightDtype);
  for (const name of source ? companions : []) {
    const path = join(source!, name);
    if (existsSync(path)) await writeFileAside(join(folder, name), await readFile(path));
  }
}

function checkSavable(folder: string, { parameters, weightShapes }: Llama): void {
  const other = [...parameters.keys()].find((name) => !weightShapes.has(name));
  if (other === undefined) return;
  throw new UserError(
    `${folder}: the model has ${other}, for which files in Hugging Face layout have no place. An adapter is saved by saveAdapter(), or ` +
      `becomes part of the weights by mergeAndUnload(); a model quantised to int8, int4 or NF4 has no files: save it before it is quantised`,
  );
}

function writable(parameter: Parameter): WritableTensor {
  return { dtype: parameter.storageDtype, shape: parameter.shape, bytes: () => parameter.bytes() };
}
