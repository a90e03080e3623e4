import { isObject, UserError } from '@blockwise/errors';
import { describe, type JsonRecord } from './json-record.ts';
import { inStandardNames, type RecordLayout } from './record-layout.ts';
import {
  closeSync,
  createReadStream,
  existsSync,
  fstatSync,
  openSync,
  readFileSync,
  readSync,
  statSync,
} from 'node:fs';
import { extname } from 'node:path';
import process from 'node:process';
import { parquetReadObjects, type AsyncBuffer } from 'hyparquet';
import { compressors } from 'hyparquet-compressors';

export interface Message {
  role: 'user' | 'assistant';
  content: string;
}

/** A conversation whose messages alternate user, assistant, beginning with a user's. */
export interface Conversation {
  system?: string;
  messages: Message[];
}

/** A text for pretraining. */
export interface TextRecord {
  text: string;
}

/** The files of one dataset, and what its fields are called where that is not as usual. */
export interface DatasetFiles {
  files: readonly string[];
  layout?: RecordLayout;
}

/** A dataset: a file, the files that it consists of, or both with its layout. */
export type DatasetSource = string | readonly string[] | DatasetFiles;

/** A dataset's files and layout. */
export const filesOf = (source: DatasetSource): DatasetFiles =>
  typeof source === 'object' && 'files' in source ? source : { files: [source].flat() };

/** Records that were left out: how many, and what was the matter with the first. */
export interface Skipped {
  count: number;
  first?: string;
}

/** The records of a dataset, all of one kind. */
export type RecordSet =
  | { kind: 'conversations'; records: Conversation[]; skipped: Skipped }
  | { kind: 'texts'; records: TextRecord[]; skipped: Skipped };

/** What makes a record unusable; `skip`: it is left out, as LLaMA-Factory does, and the others are used. */
type Problem = { field: string; found: string; expected: string; skip?: true };
type Normalise<T> = (record: JsonRecord) => T | Problem;

const shapes = {
  alpaca: 'Alpaca: "instruction", "output", optionally "input", "system", "history"',
  conversations:
    'ShareGPT: "conversations" of {"from", "value"} or "messages" of {"role", "content"}, optionally "system"',
  text: 'plain text: "text"',
};
const listedProblems = 10;

/**
 * Reads one or several dataset files into conversations or texts. The shape is told from the first record: Alpaca
 * (instruction, input, output, system, history), ShareGPT (conversations of from/value, or messages of role/content)
 * or plain text. Files: .json (an array, or one object a line), .jsonl, .parquet, and .txt with one text a line. As
 * in LLaMA-Factory (src/llamafactory/data/converter.py, commit ff6d4d1) `input` follows `instruction` after a line
 * break, `tools` are ignored, and conversations that have no answer, or whose turns
 * do not alternate, are left out.
 * @param paths a list among them is the files of one dataset; with a layout its fields have the names that this says
 * @param options.maxRecords take only so many records of each dataset, from its start; the rest is not looked at
 * @throws UserError naming the file, and the first ten unusable records with field, finding and expectation: where some are broken otherwise,
 *   or none is left
 */
export async function readRecords(
  paths: string | readonly DatasetSource[],
  options: { maxRecords?: number } = {},
): Promise<RecordSet> {
  const sets: RecordSet[] = [];
  const files: string[] = [];
  for (const { files: own, layout } of (typeof paths === 'string' ? [paths] : paths).map(filesOf)) {
    let left = options.maxRecords ?? Infinity;
    for (const path of own) {
      if (left === 0) break;
      const read = (await readFile(path)).slice(0, left);
      const records = layout ? read.map((record) => inStandardNames(layout, record)) : read;
      left -= records.length;
      files.push(path);
      sets.push(normaliseFile(path, records));
    }
  }
  const [first, ...rest] = sets;
  if (first === undefined) throw new UserError('dataset: no file given.');
  for (const [i, set] of rest.entries()) {
    if (set.kind !== first.kind) {
      throw new UserError(
        `${files[i + 1]}: holds ${set.kind} where ${files[0]} holds ${first.kind}; one run takes one kind of data.`,
      );
    }
    for (const record of set.records) (first.records as unknown[]).push(record);
    first.skipped.count += set.skipped.count;
    first.skipped.first ??= set.skipped.first;
  }
  return first;
}

async function readFile(path: string): Promise<unknown[]> {
  if (!existsSync(path)) throw new UserError(`${path}: no such file.`);
  const reader = readers[extname(path).toLowerCase()];
  if (reader === undefined || !statSync(path).isFile()) {
    throw new UserError(`${path}: not a dataset file; expected a file ending in ${Object.keys(readers).join(', ')}.`);
  }
  return await reader(path);
}

const readers: Record<string, (path: string) => Promise<unknown[]> | unknown[]> = {
  '.json': readJson,
  '.jsonl': readJsonLines,
  '.parquet': readParquet,
  '.txt': async (path) => (await readLines(path)).map(({ line }) => ({ text: line })),
};

/** The longest string V8 makes is about 512 MiB. */
const longestJson = 2 ** 29 - 32;

function readJson(path: string): Promise<unknown[]> | unknown[] {
  if (statSync(path).size > longestJson) {
    throw new UserError(
      `${path}: larger than 512 MiB, which cannot be parsed at once; convert it to .jsonl or .parquet.`,
    );
  }
  const text = decodeUtf8(path, readFileSync(path)).trimStart();
  if (text === '') return [];
  // Many .json files on the hub hold one object a line.
  if (/^\{[^\n]*\}\s*(\n|$)/.test(text)) return readJsonLines(path);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new UserError(`${path}: not valid JSON (${(error as Error).message}).`);
  }
  if (!Array.isArray(value)) throw new UserError(`${path}: found ${describe(value)}; expected an array of records.`);
  return value;
}

/** Lines end with a line feed alone: readline also ends them at U+2028, which JSON strings may hold. */
async function readLines(path: string): Promise<{ line: string; number: number }[]> {
  const lines: { line: string; number: number }[] = [];
  let number = 0;
  // Bytes, not a string that grows: a line may be the whole file.
  let pieces: Buffer[] = [];
  const add = () => {
    number += 1;
    const bytes = Buffer.concat(pieces);
    pieces = [];
    if (bytes.length > longestJson)
      throw new UserError(`${path}: line ${number} is longer than 512 MiB; is it a file of lines?`);
    const line = decodeUtf8(path, bytes).replace(/\r$/, '');
    if (line.trim() !== '') lines.push({ line, number });
  };
  for await (const chunk of createReadStream(path)) {
    let start = 0;
    for (let end; (end = (chunk as Buffer).indexOf(10, start)) >= 0; start = end + 1) {
      pieces.push((chunk as Buffer).subarray(start, end));
      add();
    }
    pieces.push((chunk as Buffer).subarray(start));
  }
  add();
  return lines;
}

/** Text without a byte order mark. Bytes that are not UTF-8 would otherwise become other characters in silence. */
function decodeUtf8(path: string, bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes);
  } catch {
    throw new UserError(`${path}: not UTF-8; convert it (iconv -t UTF-8, or save it with that encoding).`);
  }
}
const utf8 = new TextDecoder('utf-8', { fatal: true });

async function readJsonLines(path: string): Promise<unknown[]> {
  return (await readLines(path)).map(({ line, number }) => {
    try {
      return JSON.parse(line) as unknown;
    } catch (error) {
      throw new UserError(`${path}: line ${number} is not valid JSON (${(error as Error).message}).`);
    }
  });
}

async function readParquet(path: string): Promise<unknown[]> {
  const ignore = () => {};
  const file = openSync(path, 'r');
  try {
    // hyparquet begins all columns at once, and where one fails it waits for the others no more: their failing would end the process.
    process.on('unhandledRejection', ignore);
    return await parquetReadObjects({ file: bufferOf(file), compressors });
  } catch (error) {
    throw new UserError(
      `${path}: not a Parquet file that can be read (${(error as Error).message}); download it again.`,
    );
  } finally {
    await new Promise((resolve) => setImmediate(resolve));
    process.off('unhandledRejection', ignore);
    closeSync(file);
  }
}

/** A file for hyparquet. It reads at once, so that of columns that fail none fails later than the whole. */
function bufferOf(file: number): AsyncBuffer {
  const byteLength = fstatSync(file).size;
  const slice = (start: number, end = byteLength) => {
    const bytes = new Uint8Array(Math.max(0, Math.min(end, byteLength) - start));
    let done = 0;
    for (let count; (count = readSync(file, bytes, done, bytes.length - done, start + done)) > 0;) done += count;
    return bytes.buffer;
  };
  return { byteLength, slice };
}

function normaliseFile(path: string, records: unknown[]): RecordSet {
  const first = records[0];
  if (records.length === 0) throw new UserError(`${path}: the dataset is empty; expected at least one record.`);
  const known = isObject(first) ? Object.keys(first) : [];
  if (known.includes('conversations') || known.includes('messages'))
    return { kind: 'conversations', ...normaliseAll(path, records, normaliseShareGpt, shapes.conversations) };
  if (known.includes('instruction') || known.includes('output'))
    return { kind: 'conversations', ...normaliseAll(path, records, normaliseAlpaca, shapes.alpaca) };
  if (known.includes('text')) return { kind: 'texts', ...normaliseAll(path, records, normaliseText, shapes.text) };
  const found = isObject(first)
    ? `the fields ${known.map((key) => `"${key}"`).join(', ') || '(none)'}`
    : describe(first);
  throw new UserError(
    `${path}: record 0 has ${found}, which is no known shape. Expected one of:\n` +
      Object.values(shapes)
        .map((shape) => `  ${shape}`)
        .join('\n'),
  );
}

function normaliseAll<T extends Conversation | TextRecord>(
  path: string,
  records: unknown[],
  normalise: Normalise<T>,
  shape: string,
): { records: T[]; skipped: Skipped } {
  const usable: T[] = [];
  const problems: string[] = [];
  const skips: string[] = [];
  for (const [index, record] of records.entries()) {
    const result = isObject(record) ? normalise(record) : problem('(record)', record, 'an object');
    if (!('expected' in result)) usable.push(result);
    else (result.skip ? skips : problems).push(`record ${index}, field "${result.field}": found ${result.found}; expected ${result.expected}`); // prettier-ignore
  }
  const told = usable.length > 0 ? problems : [...problems, ...skips];
  if (told.length > 0) {
    const rest = told.length - listedProblems;
    throw new UserError(
      [
        `${path}: ${told.length} of ${records.length} records cannot be used (${shape}):`,
        ...told.slice(0, listedProblems).map((line) => `  ${line}`),
        ...(rest > 0 ? [`  ... and ${rest} more`] : []),
        'Mend or remove these records.',
      ].join('\n'),
    );
  }
  if (usable.flatMap(textsToLearn).every((text) => text.trim() === '')) {
    throw new UserError(
      `${path}: all ${records.length} records have an empty text to learn (records 0 to ${records.length - 1}); ` +
        'expected answers in "output" or in the assistant\'s turns. Is this a file of prompts only?',
    );
  }
  return { records: usable, skipped: { count: skips.length, ...(skips[0] && { first: `${path}: ${skips[0]}` }) } };
}

function textsToLearn(record: Conversation | TextRecord): string[] {
  if ('text' in record) return [record.text];
  return record.messages.filter(({ role }) => role === 'assistant').map(({ content }) => content);
}

/** `input` joins `instruction` by a line break; `history` is a list of [prompt, answer] that came before. */
function normaliseAlpaca(record: JsonRecord): Conversation | Problem {
  const { instruction, input, output, history } = record;
  if (input != null && typeof input !== 'string') return problem('input', input, 'a string');
  if (typeof instruction !== 'string' && !(instruction == null && input))
    return problem('instruction', instruction, 'a string');
  if (typeof output !== 'string')
    return { ...problem('output', output, 'a string: the answer to learn'), ...(output == null ? skip : {}) };
  const messages: Message[] = [];
  if (history != null && !Array.isArray(history)) return problem('history', history, 'a list of [prompt, answer]');
  for (const [i, turn] of ((history ?? []) as unknown[]).entries()) {
    if (!Array.isArray(turn) || turn.length !== 2 || !turn.every((text) => typeof text === 'string')) {
      return problem(`history[${i}]`, turn, 'a pair of strings [prompt, answer]');
    }
    messages.push({ role: 'user', content: turn[0] as string }, { role: 'assistant', content: turn[1] as string });
  }
  messages.push({ role: 'user', content: [instruction, input].filter((text) => text).join('\n') });
  messages.push({ role: 'assistant', content: output });
  return withContext(messages, record.system);
}

const roles = new Map<unknown, 'system' | 'user' | 'assistant'>([
  ['human', 'user'],
  ['user', 'user'],
  ['gpt', 'assistant'],
  ['assistant', 'assistant'],
  ['system', 'system'],
]);

function normaliseShareGpt(record: JsonRecord): Conversation | Problem {
  const field = 'conversations' in record ? 'conversations' : 'messages';
  const turns = record[field];
  if (!Array.isArray(turns)) return problem(field, turns, 'a list of messages');
  const messages: Message[] = [];
  let system = record.system;
  for (const [i, turn] of turns.entries()) {
    const at = `${field}[${i}]`;
    if (!isObject(turn)) return problem(at, turn, 'an object with a role and a text');
    const [roleKey, textKey] = 'from' in turn ? ['from', 'value'] : ['role', 'content'];
    const role = roles.get(turn[roleKey!]);
    const content = turn[textKey!];
    if (role === undefined) {
      return problem(`${at}.${roleKey}`, turn[roleKey!], `one of ${[...roles.keys()].join(', ')}`);
    }
    if (typeof content !== 'string') return problem(`${at}.${textKey}`, content, 'a string');
    if (role === 'system' && i === 0) {
      system = content;
      continue;
    }
    const expected = messages.length % 2 === 0 ? 'user' : 'assistant';
    if (role !== expected) {
      const wanted = `the ${expected}'s turn, for user and assistant must alternate`;
      return { ...problem(`${at}.${roleKey}`, turn[roleKey!], wanted), ...skip };
    }
    messages.push({ role, content });
  }
  if (messages.at(-1)?.role !== 'assistant') {
    const found = messages.length === 0 ? 'no message' : "a user's turn at the end";
    return { field, found, expected: "an assistant's turn at the end: the answer to learn", ...skip };
  }
  return withContext(messages, system);
}

function normaliseText({ text }: JsonRecord): TextRecord | Problem {
  return typeof text === 'string' ? { text } : problem('text', text, 'a string');
}

function withContext(messages: Message[], system: unknown): Conversation | Problem {
  if (system != null && typeof system !== 'string') return problem('system', system, 'a string');
  return { ...(system ? { system } : {}), messages };
}

const skip = { skip: true } as const;

function problem(field: string, value: unknown, expected: string): Problem {
  return { field, found: describe(value), expected };
}
