import { UserError, nearMatches } from '@blockwise/errors';
import { existsSync } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { datasetNames, selectDataFiles, type NamedDataset } from './dataset-names.ts';
import { describedDataset } from './dataset-info.ts';
import type { HubOptions } from './hub-snapshot.ts';
import { listFolder } from './list-folder.ts';
import type { DatasetFiles } from './records.ts';

/** Loaded where a name is the hub's: its package takes 10 MB. */
const hub = () => import('./hub-snapshot.ts');

const hubId = /^[A-Za-z0-9][\w.-]*(\/[A-Za-z0-9][\w.-]*)?$/;
const dataFile = /\.(json|jsonl|parquet|txt)$/;

/**
 * The folder of a model in Hugging Face layout: a local folder as it is, else the snapshot of a hub id (`org/name`) in the usual
 * cache, downloaded where missing (see hubSnapshot() for the environment variables).
 *
 * Only config, generation config, tokenizer and safetensors files are fetched.
 *
 * @throws UserError not a folder and not found on the hub; no safetensors weights there; a PEFT adapter; and what hubSnapshot throws
 */
export async function resolveModelPath(nameOrPath: string, options: HubOptions = {}): Promise<string> {
  const folder = await resolveRepository(
    'model',
    nameOrPath,
    'config.json and *.safetensors',
    selectModelFiles,
    options,
  );
  if (!existsSync(join(folder, 'config.json')) && existsSync(join(folder, adapterFiles[0])))
    throw new UserError(
      `model '${nameOrPath}' is a PEFT adapter: give the model that it was trained on, and this folder as its adapter (adapter_name_or_path)`,
    );
  return folder;
}

/**
 * The folder of a PEFT adapter: as resolveModelPath() finds a model's.
 * @throws UserError as resolveModelPath(); no adapter_config.json and adapter_model.safetensors there
 */
export function resolveAdapterPath(nameOrPath: string, options: HubOptions = {}): Promise<string> {
  return resolveRepository('adapter', nameOrPath, adapterFiles.join(' and '), selectAdapterFiles, options);
}

async function resolveRepository(
  what: 'model' | 'adapter',
  nameOrPath: string,
  expected: string,
  select: (name: string, paths: readonly string[]) => string[],
  options: HubOptions,
): Promise<string> {
  const path = localPath(nameOrPath);
  const found = await kindOf(path);
  if (found === 'folder') return path;
  if (found === 'file')
    throw new UserError(`${what} '${nameOrPath}': ${path} is a file; expected a folder with ${expected}`);
  if (looksLikePath(nameOrPath))
    throw new UserError(
      `${what} '${nameOrPath}': no folder ${path}.${await nearPaths(path)} Expected a folder or a hub id.`,
    );
  const repo = { type: 'model', name: nameOrPath, triedPath: path } as const;
  const { hubSnapshot } = await hub();
  const snapshot = await hubSnapshot(repo, (paths) => select(nameOrPath, paths), options);
  return snapshot.folder;
}

/**
 * The data files of a dataset: a local .json, .jsonl, .parquet or .txt file, a folder of such files, a name of the BAdam readme or
 * LLaMA-Factory ({@link datasetNames}), or a hub dataset id. Where a folder's dataset_info.json (LLaMA-Factory's --dataset_dir) has the name,
 * that says where the files are and what their fields are called.
 *
 * @returns absolute file paths
 * @throws UserError for a name that is unknown (with near ones) or holds no data files, for a dataset_info.json that is none or asks for what
 *   is not there; and what hubSnapshot throws
 */
export async function resolveDataset(
  name: string,
  { datasetDir, ...options }: HubOptions & { datasetDir?: string } = {},
): Promise<DatasetFiles> {
  const described = datasetDir === undefined ? undefined : describedDataset(datasetDir, name);
  if (!described) return { files: await filesNamed(name, options) };
  const { source, layout } = described;
  const files = 'path' in source ? filesNamed(source.path, options) : hubFiles(name, source.hub, options);
  return { files: await files, layout };
}

async function filesNamed(name: string, options: HubOptions): Promise<string[]> {
  const path = localPath(name);
  const found = await kindOf(path);
  if (found === 'file') {
    if (dataFile.test(path)) return [path];
    throw new UserError(`dataset '${name}': ${path} is not a .json, .jsonl, .parquet or .txt file`);
  }
  if (found === 'folder') {
    return needDataFiles(name, path, selectDataFiles(await listFolder(path))).map((file) => join(path, file));
  }
  if (looksLikePath(name) || dataFile.test(name)) {
    throw new UserError(
      `dataset '${name}': no file ${path}.${await nearPaths(path)} ` +
        'Expected a .json, .jsonl, .parquet or .txt file, a folder of them, a known name, or a hub dataset id.',
    );
  }
  return hubFiles(name, Object.hasOwn(datasetNames, name) ? datasetNames[name] : hubDataset(name), options, path);
}

async function hubFiles(name: string, named: NamedDataset, options: HubOptions, path?: string): Promise<string[]> {
  const repo = { type: 'dataset', name: named.repo, ...(path === undefined ? {} : { triedPath: path }) } as const;
  const select = (paths: string[]) => needDataFiles(name, named.repo, selectDataFiles(paths, named));
  const { hubSnapshot } = await hub();
  const snapshot = await hubSnapshot(repo, select, options);
  return snapshot.files.map((file) => join(snapshot.folder, file));
}

function hubDataset(name: string): NamedDataset {
  const id = name.replace(/^datasets\//, '');
  if (id.includes('/')) return { repo: id };
  const known = Object.keys(datasetNames);
  const near = nearMatches(name, known);
  throw new UserError(
    `dataset '${name}' is unknown, and there is no file ${resolve(name)}. ` +
      (near.length > 0 ? `Did you mean ${near.join(' or ')}? ` : '') +
      `Known names: ${known.join(', ')}; else give a .json, .jsonl or .parquet file, or a hub dataset id (org/name).`,
  );
}

function needDataFiles(name: string, where: string, files: string[]): string[] {
  if (files.length > 0) return files;
  throw new UserError(`dataset '${name}': ${where} holds no .json, .jsonl or .parquet data files`);
}

/** The files of a model repository that a Llama needs, weights as safetensors only. */
function selectModelFiles(name: string, paths: readonly string[]): string[] {
  // A repository may also hold other copies of its weights (consolidated.safetensors); transformers reads model*.
  const standard = paths.filter((path) => /^model(-\d+-of-\d+)?\.safetensors$/.test(path));
  const weights = standard.length > 0 ? standard : paths.filter((path) => /^[^/]+\.safetensors$/.test(path));
  if (weights.length === 0 || !paths.includes('config.json')) {
    const bin = paths.some((path) => path.endsWith('.bin')) ? ' It has .bin weights: convert them to safetensors.' : '';
    throw new UserError(`model '${name}': the repository lacks config.json or *.safetensors.${bin}`);
  }
  const others =
    /^(config|generation_config|tokenizer[^/]*|special_tokens_map|added_tokens|model\.safetensors\.index)\.json$/;
  const rest = paths.filter((path) => others.test(path) || /^(tokenizer\.model|chat_template\.jinja)$/.test(path));
  // Small files first: a broken configuration shows before gigabytes arrive.
  return [...rest.sort(), ...weights.sort()];
}

const adapterFiles = ['adapter_config.json', 'adapter_model.safetensors'] as const;

function selectAdapterFiles(name: string, paths: readonly string[]): string[] {
  if (adapterFiles.every((file) => paths.includes(file))) return [...adapterFiles];
  throw new UserError(
    `adapter '${name}': the repository lacks ${adapterFiles.join(' or ')}: it holds no LoRA of PEFT's`,
  );
}

function localPath(nameOrPath: string): string {
  return resolve(nameOrPath.replace(/^~(?=\/|$)/, homedir()));
}

/** A path, and not a hub id: it starts like one, or has more parts than an id. */
function looksLikePath(name: string): boolean {
  return !hubId.test(name.replace(/^datasets\//, ''));
}

async function kindOf(path: string): Promise<'file' | 'folder' | undefined> {
  return stat(path).then(
    (found) => (found.isDirectory() ? 'folder' : 'file'),
    () => undefined,
  );
}

/** Advice on a missing path: what its nearest existing ancestor holds of a similar name. */
async function nearPaths(path: string): Promise<string> {
  const parent = dirname(path);
  const entries = await readdir(parent).catch(() => undefined);
  if (entries === undefined) return ` The folder ${parent} does not exist either.`;
  const near = nearMatches(basename(path), entries);
  return near.length > 0 ? ` Did you mean ${near.map((entry) => join(parent, entry)).join(' or ')}?` : '';
}
