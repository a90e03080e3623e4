import { isObject, nearMatch, UserError } from '@blockwise/errors';
import { closeSync, existsSync, readdirSync, statSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { basename, join } from 'node:path';

import { MappedFile } from '@blockwise/tensorflow';
import type { DType, RawTensor } from '@blockwise/tensorflow';

import { discard, publish, writeAside } from './atomic-file.ts';
import { brief, briefName, maxListed, readJsonObject, shorten } from './json-object.ts';
import {
  byteLengthOf,
  openForReading,
  readExactly,
  readSafetensorsHeader,
  writeSafetensorsAside,
} from './safetensors.ts';
import type { SafetensorsEntry, WritableTensor } from './safetensors.ts';

const singleFile = 'model.safetensors';
const indexFile = 'model.safetensors.index.json';
const shardName = /^model-\d{5}-of-\d{5}\.safetensors$/;
const partialName = /^\.model.*\.\d+\.partial$/;
const maxIndexBytes = 100_000_000;
const pieceBytes = 1 << 20;

/** A weight of a model folder, and the file that holds it. */
export interface WeightEntry extends SafetensorsEntry {
  /** Path of the file it lies in. */
  readonly file: string;
}

/** The weights of a model folder: what they are, and each as a tensor on demand. */
export interface Weights {
  readonly folder: string;
  readonly entries: ReadonlyMap<string, WeightEntry>;
  /** The weight over its mapped file, owned by the caller; `streamed` as MappedFile.tensor()'s. @throws `internal:` for a name that is not in `entries`. */
  tensor(name: string, options?: { streamed?: boolean }): RawTensor;
  /** No more tensors are made; each file is unmapped when its last tensor is disposed. */
  close(): void;
}

/**
 * Opens the weights of a folder in Hugging Face layout: `model.safetensors`, or the shards of
 * `model.safetensors.index.json`. Headers are read and checked; files are mapped when their first tensor is asked for.
 * @throws UserError where there are none, with what to do, or where a file is broken.
 */
export function openWeights(folder: string): Weights {
  const entries = readEntries(folder);
  const mapped = new Map<string, MappedFile>();
  return {
    folder,
    entries,
    tensor(name, options) {
      const entry = entries.get(name);
      if (!entry) throw new Error(`internal: ${folder} has no weight ${name}`);
      let file = mapped.get(entry.file);
      if (!file) mapped.set(entry.file, (file = MappedFile.open(entry.file)));
      return file.tensor(entry.offset, entry.shape, entry.dtype, options);
    },
    close() {
      for (const file of mapped.values()) file.close();
      mapped.clear();
    },
  };
}

/**
 * What and where the weights of a folder are; the files' headers are checked, nothing is mapped. @throws UserError as
 * `openWeights`.
 */
export function readEntries(folder: string): Map<string, WeightEntry> {
  const single = join(folder, singleFile);
  if (existsSync(single)) return entriesOf(single);
  const index = join(folder, indexFile);
  if (existsSync(index)) return readIndex(folder, index);
  throw noWeights(folder);
}

function entriesOf(file: string): Map<string, WeightEntry> {
  const { entries } = readSafetensorsHeader(file);
  return new Map([...entries].map(([name, entry]) => [name, { ...entry, file }]));
}

/** The weights that an index lists, after checking that its shards are plain files beside it and hold what it says. */
function readIndex(folder: string, index: string): Map<string, WeightEntry> {
  const { weight_map: map } = readJsonObject(index, maxIndexBytes);
  if (!isObject(map))
    throw new UserError(`${index}: weight_map: found ${brief(map)}, expected an object of weight name to file`);
  const problems: string[] = [];
  const shards = new Map<string, Map<string, WeightEntry>>();
  for (const shard of new Set(Object.values(map))) {
    if (typeof shard !== 'string' || !isPlainFileName(shard)) {
      problems.push(`weight_map: found ${brief(shard)}, expected the name of a .safetensors file in the same folder`);
    } else if (!existsSync(join(folder, shard))) {
      problems.push(`weight_map: ${shard} is not in the folder; download it`);
    } else {
      shards.set(shard, entriesOf(join(folder, shard)));
    }
  }
  const entries = new Map<string, WeightEntry>();
  for (const [name, shard] of Object.entries(map)) {
    const inShard = shards.get(shard as string);
    const entry = inShard?.get(name);
    if (entry) entries.set(name, entry);
    else if (inShard) problems.push(`weight_map: ${briefName(name)} is not in ${shard as string}`);
  }
  if (problems.length > 0) throw UserError.of(index, shorten(problems));
  return entries;
}

/** Refuses anything that could lead out of the folder. */
function isPlainFileName(name: string): boolean {
  return /^[\w][\w.-]*\.safetensors$/.test(name) && basename(name) === name;
}

function noWeights(folder: string): UserError {
  if (!existsSync(folder) || !statSync(folder).isDirectory()) {
    return new UserError(`${folder}: no such folder; expected a model in Hugging Face layout`);
  }
  const pickled = readdirSync(folder).find((name) => /^pytorch_model.*\.bin$|\.pth$/.test(name));
  if (!pickled) return new UserError(`${folder}: no weights; expected ${singleFile}, or ${indexFile} and its shards`);
  return new UserError(
    `${folder}: found ${pickled}, a pickle, which can run code when it is loaded; expected ${singleFile}. Convert it once in Python: ` +
      `AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, safe_serialization=True)`,
  );
}

/** Whether two stored weights are the same, bit for bit; their files are read a piece at a time. */
export function areEqual(a: WeightEntry, b: WeightEntry): boolean {
  if (a.dtype !== b.dtype || a.shape.join() !== b.shape.join()) return false;
  const opened = [a, b].map(({ file }) => openForReading(file));
  try {
    for (let done = 0; done < a.byteLength; done += pieceBytes) {
      const length = Math.min(pieceBytes, a.byteLength - done);
      const [one, other] = [a, b].map(({ file, offset }, i) => readExactly(file, opened[i], offset + done, length));
      if (!one.equals(other)) return false;
    }
    return true;
  } finally {
    opened.forEach((file) => closeSync(file));
  }
}

/** Dtypes that computation can start from. */
const sourceDtypes: readonly DType[] = ['float32', 'bfloat16', 'float16'];
/** Buffers that old checkpoints carry and that follow from the config. */
const derivedBuffers = /(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached)$/;

interface MatchOptions {
  tied?: readonly (readonly [alias: string, name: string])[];
  dtypesOf?: (name: string) => readonly DType[];
  config?: string;
}

/**
 * Holds what a model needs against what was found, and says which found weight serves each expected name.
 * @param expected names and shapes the model needs.
 * @param found `openWeights`' result, or its folder (for messages) and entries.
 * @param tied pairs [alias, name] of weights that are one: either name may stand for it, and both may be there.
 * @param dtypesOf the dtypes that a weight may have; default: floats of 16 or 32 bits.
 * @param config the file that implies what is needed, for messages.
 * @returns expected name to found name.
 * @throws UserError listing every missing, unexpected, mis-shaped weight and dtype that is not expected.
 */
export function matchWeights(
  expected: ReadonlyMap<string, readonly number[]>,
  found: { readonly folder: string; readonly entries: ReadonlyMap<string, { dtype: DType; shape: readonly number[] }> },
  { tied = [], dtypesOf = () => sourceDtypes, config = 'config.json' }: MatchOptions = {},
): Map<string, string> {
  const { folder, entries } = found;
  const aliases = new Map(tied.map(([alias, name]) => [name, alias]));
  const aliasNames = new Set(aliases.values());
  const extra = [...entries.keys()].filter(
    (name) => !expected.has(name) && !aliasNames.has(name) && !derivedBuffers.test(name),
  );
  const missing: string[] = [];
  const wrong: string[] = [];
  const matched = new Map<string, string>();
  for (const [name, shape] of expected) {
    const source = [name, aliases.get(name)].find((candidate) => candidate !== undefined && entries.has(candidate));
    if (source === undefined) {
      // A message shows few of them, and to compare each with each would take minutes.
      const near = missing.length < maxListed ? nearMatch(name, extra) : undefined;
      missing.push(`missing ${name} ${sizes(shape)}${near ? `; did you mean ${briefName(near)}?` : ''}`);
      continue;
    }
    const entry = entries.get(source)!;
    if (entry.shape.join() !== shape.join()) {
      wrong.push(`${source}: found shape ${sizes(entry.shape)}, expected ${sizes(shape)} by ${config}`);
    }
    const dtypes = dtypesOf(name);
    if (!dtypes.includes(entry.dtype)) wrong.push(`${source}: found ${entry.dtype}, expected ${dtypes.join(', ')}`);
    matched.set(name, source);
  }
  const unexpected = extra.map((name) => `unexpected ${briefName(name)} ${sizes(entries.get(name)!.shape)}`);
  const problems = [missing, unexpected, wrong].flatMap(shorten);
  if (problems.length > 0) throw UserError.of(`${folder}: the weights do not fit ${config}`, problems);
  return matched;
}

/** A shape in a message. */
const sizes = (shape: readonly number[]) => brief(shape).replaceAll(',', ', ');

/**
 * Saves weights as Hugging Face does: one `model.safetensors`, or, above `maxShardBytes`,
 * `model-00001-of-0000N.safetensors` and the index. Tensors are taken one at a time. All files are written aside first
 * and renamed together, the index last; a model saved there before is replaced, its leftover shards removed. (Between
 * two renames a kill can leave a mixture: what must never be seen half done goes to a fresh folder that is renamed as a
 * whole.)
 * @param tensors names and tensors, borrowed; their bytes are asked for when their turn comes.
 * @param maxShardBytes bytes of tensors in one file; a larger tensor gets a file of its own. Default 5e9, transformers'
 * "5GB".
 * @returns the paths written.
 */
export async function saveWeights(
  folder: string,
  tensors: Iterable<readonly [string, WritableTensor]>,
  { maxShardBytes = 5e9 }: { maxShardBytes?: number } = {},
): Promise<string[]> {
  const shards = split(tensors, maxShardBytes);
  const single = shards.length === 1;
  const nameOf = (shard: number): string =>
    single ? singleFile : `model-${number5(shard + 1)}-of-${number5(shards.length)}.safetensors`;
  const paths = shards.map((_, shard) => join(folder, nameOf(shard)));
  if (!single) paths.push(join(folder, indexFile));
  try {
    for (const [i, shard] of shards.entries()) await writeSafetensorsAside(paths[i]!, shard);
    if (!single) await writeAside(paths.at(-1)!, (file) => file.writeFile(indexOf(shards, nameOf)));
  } catch (error) {
    await discard(paths);
    throw error;
  }
  await publish(paths);
  await removeLeftovers(folder, paths);
  return paths;
}

type Shard = (readonly [string, WritableTensor])[];

/** Fills shards in the order given. */
function split(tensors: Iterable<readonly [string, WritableTensor]>, maxShardBytes: number): Shard[] {
  const shards: Shard[] = [[]];
  const names = new Set<string>();
  let filled = 0;
  for (const entry of tensors) {
    const [name, { dtype, shape }] = entry;
    if (names.has(name)) throw new Error(`internal: ${name} is saved twice`);
    names.add(name);
    const bytes = byteLengthOf(dtype, shape);
    if (filled > 0 && filled + bytes > maxShardBytes) {
      shards.push([]);
      filled = 0;
    }
    shards.at(-1)!.push(entry);
    filled += bytes;
  }
  return shards;
}

function number5(value: number): string {
  return String(value).padStart(5, '0');
}

function indexOf(shards: readonly Shard[], nameOf: (shard: number) => string): string {
  const map = shards.flatMap((shard, i) => shard.map(([name]) => [name, nameOf(i)] as const));
  map.sort(([a], [b]) => (a < b ? -1 : 1));
  const total_size = shards.flat().reduce((sum, [, { dtype, shape }]) => sum + byteLengthOf(dtype, shape), 0);
  return `${JSON.stringify({ metadata: { total_size }, weight_map: Object.fromEntries(map) }, undefined, 2)}\n`;
}

/** Removes files of a model saved here before, which loaders would otherwise prefer or mix in, and what a killed process left half-written. */
async function removeLeftovers(folder: string, written: readonly string[]): Promise<void> {
  const kept = new Set(written.map((path) => basename(path)));
  const ours = (name: string): boolean =>
    name === singleFile || name === indexFile || shardName.test(name) || partialName.test(name);
  for (const name of readdirSync(folder)) if (ours(name) && !kept.has(name)) await rm(join(folder, name));
}
