import { UserError } from '@blockwise/errors';
import { randomBytes } from 'node:crypto';
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, rmSync, writeSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { count, dictionary, json, list, nullable, number, object, oneOf, text } from './schema.ts';
import type { Infer } from './schema.ts';

/** Bytes of memory by what they hold. `peak` is the highest sum at any one moment, so at most the sum of the kinds. */
const memoryKinds = {
  parameters: nullable(count),
  gradients: nullable(count),
  optimizerStates: nullable(count),
  activations: nullable(count),
  workspace: nullable(count),
  peak: nullable(count),
};

const schema = object({
  schemaVersion: oneOf(1),
  name: text,
  /** The command as it was typed, so that it can be typed again. */
  command: text,
  /** Every option, resolved: defaults included, under the names of the code (camelCase). */
  config: dictionary(json),
  seed: count,
  /** ISO 8601, UTC. */
  startedAt: text,
  finishedAt: nullable(text),
  status: oneOf('running', 'finished', 'interrupted', 'failed'),
  /** The message of what ended a failed run; null otherwise. */
  error: nullable(text),
  /** Git commit of the code, null outside a checkout. */
  commit: nullable(text),
  versions: object({ node: text, libtensorflow: nullable(text), packages: dictionary(text) }),
  machine: object({ cpu: text, cores: count, memoryBytes: count, gpu: nullable(text) }),
  /** `blocks` is the paper's D: how many blocks take turns (1 when all parameters train at once). */
  model: object({ name: text, parameters: count, layers: count, blocks: count }),
  /** `sha256` is of the dataset file; `labelTokens` counts the tokens of the training part that are learned from. */
  data: object({
    path: text,
    sha256: nullable(text),
    examples: count,
    trainExamples: count,
    validationExamples: count,
    labelTokens: count,
  }),
  /** Seconds, but for the two rates, which leave out the steps that warm up (compile) the engine. */
  timing: object({
    total: number,
    compile: number,
    forward: number,
    backward: number,
    update: number,
    evaluation: number,
    tokensPerSecond: nullable(number),
    examplesPerSecond: nullable(number),
  }),
  /** Bytes. `planned` is the planner's prediction before the run, `measured` what was seen; null where unknown. */
  memory: object({
    planned: nullable(object(memoryKinds)),
    measured: object({
      ...memoryKinds,
      /** The system's own high-water marks of the process: all resident pages (VmHWM), and the two kinds they consist of. */
      peakResident: nullable(count),
      peakAnonymous: nullable(count),
      peakFileBacked: nullable(count),
    }),
  }),
  /** One entry for each optimizer step. Loss in nats a label token, null where it was not finite. */
  steps: list(
    object({
      step: count,
      epoch: number,
      loss: nullable(number),
      learningRate: number,
      gradNorm: nullable(number),
      /** Index of the active block; null when all parameters train. */
      block: nullable(count),
      tokens: count,
      seconds: number,
    }),
  ),
  validation: list(object({ step: count, loss: nullable(number), perplexity: nullable(number) })),
  blockHistory: list(object({ blockEpoch: count, block: count, name: text, firstStep: count, lastStep: count })),
  samples: list(object({ prompt: text, before: text, after: nullable(text) })),
});

/** What `run.json` holds: all that tables and charts are made from. */
export type RunRecord = Infer<typeof schema>;

/** The record's own version, raised when a reader of older records would go wrong. */
export const runRecordVersion = 1;

/**
 * Writes a record as JSON: aside, synced, renamed, so that `path` always holds a complete record. Numbers that are not
 * finite become null.
 */
export function writeRunRecord(path: string, record: RunRecord): void {
  writeAside(path, `${JSON.stringify(record, null, 2)}\n`);
}

/**
 * Reads `run.json`.
 * @throws UserError naming the file and every field that does not fit.
 */
export function readRunRecord(path: string): RunRecord {
  let content: string;
  try {
    content = readFileSync(path, 'utf8');
  } catch (error) {
    throw new UserError(`${path}: cannot be read (${(error as Error).message}); give the run.json of a run`);
  }
  let value: unknown;
  try {
    value = JSON.parse(content);
  } catch (error) {
    throw new UserError(
      `${path}: is not JSON (${(error as Error).message}); was it edited or cut off? Run again to write it anew`,
    );
  }
  const problems: string[] = [];
  schema.check(value, '', problems);
  if (problems.length > 0) {
    const listed = problems.slice(0, 20).map((problem) => `\n  ${problem}`);
    const more = problems.length > 20 ? `\n  and ${problems.length - 20} more` : '';
    throw new UserError(`${path}: not a run record of version ${runRecordVersion}:${listed.join('')}${more}`);
  }
  return value as RunRecord;
}

/** Writes a file that is complete or absent: aside, synced, renamed. */
export function writeAside(path: string, content: string | Uint8Array): void {
  const aside = join(dirname(path), `.${basename(path)}.${process.pid}.${randomBytes(4).toString('hex')}.part`);
  try {
    const file = openSync(aside, 'wx');
    try {
      const bytes = typeof content === 'string' ? Buffer.from(content) : content;
      for (let written = 0; written < bytes.length;) written += writeSync(file, bytes, written);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(aside, path);
  } catch (error) {
    rmSync(aside, { force: true });
    throw error;
  }
}
