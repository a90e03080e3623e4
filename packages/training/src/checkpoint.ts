import { isObject, UserError } from '@blockwise/errors';
import {
  readJsonObject,
  readSafetensorsHeader,
  writeFileAside,
  writeFolderAside,
  writeSafetensors,
  type JsonObject,
  type SafetensorsHeader,
  type WritableTensor,
} from '@blockwise/model-zoo';
import type { OptimizerState, StateTensor } from '@blockwise/optimizers';
import { closeSync, existsSync, openSync, readdirSync, readSync } from 'node:fs';
import { join } from 'node:path';
import type { TrainState } from './train.ts';

/**
 * A checkpoint is a folder `checkpoint-<step>`: the weights that the method may have changed, as it saves them (the model in Hugging Face
 * layout with masters rounded to their storage dtype, or an adapter in PEFT's), `optimizer.safetensors` (float32 masters and states of what is
 * trained, and the step they are of) and `trainer_state.json` (all else). It is complete or absent.
 */
const stateFile = 'trainer_state.json';
const optimizerFile = 'optimizer.safetensors';
const pattern = /^checkpoint-(\d+)$/;
const version = 1;
/** Ten million steps; the longest string V8 makes is about as long. */
const maxStateBytes = 2 ** 29;

/** What must be equal in the run that goes on; anything that is not compared bit by bit elsewhere. */
export type Fingerprint = Readonly<Record<string, unknown>>;

interface StateFile {
  version: number;
  fingerprint: Fingerprint;
  step: number;
  data: TrainState['data'];
  optimizer: OptimizerState['scalars'];
  steps: TrainState['steps'];
  validation: TrainState['validation'];
}

/** Saves a checkpoint into `outputDir` and returns its folder; `saveWeights` writes what the states belong to into a folder. */
export async function saveCheckpoint(
  outputDir: string,
  saveWeights: (folder: string) => Promise<void>,
  state: TrainState,
  fingerprint: Fingerprint,
): Promise<string> {
  const { step, data, steps, validation, optimizer } = state;
  const file: StateFile = { version, fingerprint, step, data, optimizer: optimizer.scalars, steps, validation };
  const tensors = [...optimizer.tensors].map(([name, tensor]) => [name, writable(tensor)] as const);
  const folder = join(outputDir, `checkpoint-${step}`);
  await writeFolderAside(folder, async (aside) => {
    await saveWeights(aside);
    await writeSafetensors(join(aside, optimizerFile), tensors, { format: 'pt', step: String(step) });
    await writeFileAside(join(aside, stateFile), JSON.stringify(file));
  });
  return folder;
}

function writable({ dtype, shape, bytes }: StateTensor): WritableTensor {
  return { dtype, shape, bytes: () => bytes };
}

/** Whether a folder is a checkpoint by its looks. */
export function isCheckpoint(folder: string): boolean {
  return existsSync(join(folder, stateFile));
}

/** The newest complete checkpoint of a run's folder, or undefined. */
export function latestCheckpoint(outputDir: string): string | undefined {
  if (!existsSync(outputDir)) return undefined;
  const complete = readdirSync(outputDir).filter((name) => pattern.test(name) && isCheckpoint(join(outputDir, name)));
  const stepOf = (name: string) => Number(pattern.exec(name)![1]);
  const [newest] = complete.sort((a, b) => stepOf(b) - stepOf(a));
  return newest && join(outputDir, newest);
}

/**
 * Whether a run with these settings may go on from a checkpoint, as far as they say: to be asked before anything large is loaded.
 * @throws UserError as loadCheckpoint()
 */
export function checkCheckpoint(folder: string, settings: Fingerprint): void {
  compare(folder, readStateFile(folder), settings, Object.keys(settings));
}

/**
 * Reads a checkpoint's state; its weights are opened like any model folder.
 * @throws UserError where it is no checkpoint, is damaged, or was made by a run with other settings: all differences at once.
 */
export function loadCheckpoint(folder: string, fingerprint: Fingerprint): TrainState {
  const file = readStateFile(folder);
  compare(folder, file, fingerprint, [...new Set([...Object.keys(fingerprint), ...Object.keys(file.fingerprint)])]);
  const { step, data, steps, validation } = file;
  const path = join(folder, optimizerFile);
  const { metadata, entries } = readSafetensorsHeader(path);
  if (metadata.step !== String(step))
    throw new UserError(
      `${path} is of step ${metadata.step ?? 'unknown'}, ${stateFile} beside it of step ${step}: resume from another checkpoint`,
    );
  return {
    step,
    data,
    steps,
    validation,
    optimizer: { scalars: file.optimizer, tensors: readTensors(path, entries) },
  };
}

function compare(folder: string, { fingerprint: was }: StateFile, now: Fingerprint, keys: readonly string[]): void {
  const differing = keys.filter((key) => JSON.stringify(now[key]) !== JSON.stringify(was[key]));
  if (differing.length === 0) return;
  const shown = (value: unknown) => JSON.stringify(value) ?? 'not said';
  const lines = differing.map((key) => `${key} was ${shown(was[key])}, now ${shown(now[key])}`);
  throw new UserError(
    `${join(folder, stateFile)}: the checkpoint continues another run:\n  ${lines.join('\n  ')}\nGive the settings of that run`,
  );
}

function readStateFile(folder: string): StateFile {
  if (!isCheckpoint(folder))
    throw new UserError(`${folder} is no checkpoint: it has no ${stateFile}. Give a folder named checkpoint-<step>`);
  const path = join(folder, stateFile);
  let file: JsonObject;
  try {
    file = readJsonObject(path, maxStateBytes);
  } catch (error) {
    throw new UserError(`${path} is damaged (${(error as Error).message}): resume from an older checkpoint`);
  }
  const found = file.version;
  if (found !== version)
    throw new UserError(
      `${path}: version ${JSON.stringify(found)}, expected ${version}: it was made by another release, or by another program`,
    );
  const state = file as unknown as StateFile;
  const expected: [field: keyof StateFile, fits: boolean, shape: string][] = [
    ['fingerprint', isObject(state.fingerprint), 'an object'],
    ['step', Number.isSafeInteger(state.step) && state.step >= 1, 'a whole number from 1'],
    ['data', isObject(state.data), 'an object'],
    ['optimizer', isObject(state.optimizer), 'an object'],
    [
      'steps',
      areRecords(state.steps) &&
        state.steps.every(({ step }, i) => step === i + 1) &&
        state.steps.length === state.step,
      'a record for each step',
    ],
    ['validation', areRecords(state.validation), 'a list of records'],
  ];
  const problems = expected.filter(([, fits]) => !fits).map(([field, , shape]) => `${field} is not ${shape}`);
  if (problems.length > 0)
    throw new UserError(`${path} is damaged (${problems.join('; ')}): resume from an older checkpoint`);
  return state;
}

/** A list of steps' losses. */
const areRecords = (value: unknown): value is { step: number; loss: number }[] =>
  Array.isArray(value) &&
  value.every((record) => isObject(record) && typeof record.step === 'number' && typeof record.loss === 'number');

function readTensors(path: string, entries: SafetensorsHeader['entries']): Map<string, StateTensor> {
  const file = openSync(path, 'r');
  try {
    const read = (offset: number, length: number) => {
      const bytes = new Uint8Array(length);
      for (let done = 0; done < length;) {
        const count = readSync(file, bytes, done, Math.min(length - done, 1 << 30), offset + done);
        if (count === 0) throw new UserError(`${path} ended while it was read: is it still being written?`);
        done += count;
      }
      return bytes;
    };
    return new Map(
      [...entries].map(([name, { dtype, shape, offset, byteLength }]) => [
        name,
        { dtype, shape, bytes: read(offset, byteLength) },
      ]),
    );
  } finally {
    closeSync(file);
  }
}
