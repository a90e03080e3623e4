import { isObject, nearMatch, UserError } from '@blockwise/errors';
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { NamedDataset } from './dataset-names.ts';
import { describe, type JsonRecord } from './json-record.ts';
import type { RecordLayout } from './record-layout.ts';

/** A dataset as LLaMA-Factory's dataset_info.json describes it. */
export interface DescribedDataset {
  /** A local file or folder, or a dataset of the hub. */
  source: { path: string } | { hub: NamedDataset };
  layout: RecordLayout;
}

/** What an entry may hold; of other fields nothing is known here, so they are refused. */
const fields = ['file_name', 'hf_hub_url', 'ms_hub_url', 'om_hub_url', 'formatting', 'ranking', 'subset', 'split', 'folder', 'columns', 'tags']; // prettier-ignore
const columns = ['prompt', 'query', 'response', 'history', 'messages', 'system', 'tools'];
const tags = ['role_tag', 'content_tag', 'user_tag', 'assistant_tag', 'observation_tag', 'function_tag', 'system_tag'];

/**
 * A dataset of a folder's dataset_info.json (LLaMA-Factory's --dataset_dir; src/llamafactory/data/parser.py, commit ff6d4d1): where it is, and what
 * its fields are called.
 * @returns undefined where the file has no such name
 * @throws UserError where there is no such file, it is no JSON, or the entry asks for what is not there (ranking, images, scripts)
 */
export function describedDataset(folder: string, name: string): DescribedDataset | undefined {
  const path = join(folder, 'dataset_info.json');
  const all = readJson(path);
  const entry = Object.hasOwn(all, name) ? all[name] : undefined;
  if (entry === undefined) return undefined;
  const problems: string[] = [];
  const object = (value: unknown, field: string, known: readonly string[]): JsonRecord => {
    if (!isObject(value)) {
      problems.push(`${field} is ${describe(value)}, expected an object`);
      return {};
    }
    for (const key of Object.keys(value))
      if (!known.includes(key)) problems.push(`${field}.${key} is not supported${hint(key, known)}`);
    return value;
  };
  const text = (json: JsonRecord, key: string): string | undefined => {
    const value = json[key];
    if (value === undefined || value === null) return undefined;
    if (typeof value === 'string') return value;
    problems.push(`${key} is ${describe(value)}, expected a text`);
    return undefined;
  };
  const own = object(entry, name, fields);
  if (own.ranking) problems.push('ranking is true, and preferences are not trained on here');
  const formatting = text(own, 'formatting') ?? 'alpaca';
  if (!['alpaca', 'sharegpt', 'openai'].includes(formatting))
    problems.push(`formatting is ${JSON.stringify(formatting)}, expected alpaca, sharegpt or openai`);
  const named = own.columns === undefined ? undefined : object(own.columns, 'columns', columns);
  const tagged = own.tags === undefined ? undefined : object(own.tags, 'tags', tags);
  // Where columns or tags are given, those that are left out are none.
  const column = (key: string, standard?: string) => (named ? text(named, key) : standard);
  const tag = (key: string, standard: string) => (tagged ? text(tagged, key) : standard);
  const layout: RecordLayout =
    formatting === 'alpaca'
      ? {
          formatting,
          prompt: column('prompt', 'instruction'),
          query: column('query', 'input'),
          response: column('response', 'output'),
          history: column('history'),
          system: column('system'),
        }
      : {
          formatting: 'sharegpt',
          messages: column('messages', 'conversations'),
          system: column('system'),
          role: tag('role_tag', 'from'),
          content: tag('content_tag', 'value'),
          user: tag('user_tag', 'human'),
          assistant: tag('assistant_tag', 'gpt'),
          systemTag: tag('system_tag', 'system'),
        };
  const [file, hub] = [text(own, 'file_name'), text(own, 'hf_hub_url')];
  if (file === undefined && hub === undefined) problems.push('it has neither file_name nor hf_hub_url');
  if (file?.split(/[/\\]/).includes('..'))
    problems.push(`file_name ${JSON.stringify(file)} leads out of the folder; put the file beneath it`);
  if (problems.length > 0) throw UserError.of(`${path}: ${name}`, problems);
  const subset = text(own, 'subset') ?? text(own, 'folder');
  const split = text(own, 'split');
  const source =
    hub === undefined
      ? { path: resolve(join(folder, file!)) }
      : { hub: { repo: hub, ...(subset === undefined ? {} : { subset }), ...(split === undefined ? {} : { split }) } };
  return { source, layout };
}

function hint(key: string, known: readonly string[]): string {
  const near = nearMatch(key, known);
  return near === undefined ? `; it may have ${known.join(', ')}` : ` (did you mean ${near}?)`;
}

function readJson(path: string): JsonRecord {
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    throw new UserError(
      `${path}: cannot be read (${(error as Error).message}); --dataset_dir is the folder that has it`,
    );
  }
  if (!isObject(json)) throw new UserError(`${path}: expected an object of datasets by their names`);
  return json;
}
