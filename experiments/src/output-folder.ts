import { UserError } from '@blockwise/errors';
import { readRunRecord } from '@blockwise/reporting';
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  realpathSync,
  rmdirSync,
  rmSync,
  statSync,
} from 'node:fs';
import { basename, dirname, join, sep } from 'node:path';
import { tryLock, type FileLock } from './file-lock.ts';

const lockFile = '.running';
/** Half-written checkpoints and models, which only a killed run leaves. */
const partial = /^(checkpoint-\d+|model)\.partial$/;
/** What a run leaves behind, and nothing that a user may have put beside it. */
const leftByARun =
  /^((checkpoint-\d+|model)(\.partial)?|tensorboard|log\.jsonl|loss\.csv|loss\.png|memory\.md|run\.json)$/;

/** What took training to make. */
const result = /^(checkpoint-\d+|model)$/;

/** A run's folder while this process has it for itself. */
export interface OutputFolder {
  /** @throws UserError where clear() would remove one of these files and folders, which the run reads */
  refuseToDelete(inputs: readonly string[]): void;
  /** Removes what an earlier run left and the new one does not go on from. Called when the new run can begin: not before. */
  clear(): void;
  /** Gives the folder back; one in which nothing was written is removed again. */
  release(): void;
}

/** How a run wants its folder. */
export interface Claim {
  /** An earlier run may go. */
  overwrite: boolean;
  /** Resuming was asked for; with `checkpoint`, that is where the run goes on from, in this folder or in another. */
  resume: boolean;
  checkpoint?: string;
}

/**
 * Takes a run's folder for this process. Nothing in it is changed yet.
 * @throws UserError where it cannot be made, another run is using it, or it holds what the run neither goes on from nor may overwrite: any
 * file, or, where resuming was asked for, the results of a run (one killed before its first checkpoint has none, and begins again)
 */
export function claimOutputFolder(folder: string, { overwrite, resume, checkpoint }: Claim): OutputFolder {
  const made = makeFolder(folder);
  const lock = takeLock(folder);
  const release = () => {
    lock.release();
    if (made && readdirSync(folder).length === 0) rmdirSync(folder);
  };
  try {
    const found = readdirSync(folder).filter((name) => name !== lockFile);
    const goesOn = checkpoint !== undefined && isIn(checkpoint, folder);
    if (resume && !goesOn) refuse(folder, resultsAmong(found, folder), withoutCheckpoint);
    if (!resume && !overwrite) refuse(folder, found, notEmpty);
    const unwanted = found.filter((name) => (goesOn ? partial : leftByARun).test(name));
    return {
      refuseToDelete: (inputs) => refuseToDelete(inputs, folder, unwanted),
      clear: () => unwanted.forEach((name) => rmSync(join(folder, name), { recursive: true })),
      release,
    };
  } catch (error) {
    release();
    throw error;
  }
}

/** Whether a checkpoint is one of the run in a folder. */
export const isIn = (checkpoint: string, folder: string): boolean =>
  existsSync(folder) && realpathSync(dirname(checkpoint)) === realpathSync(folder);

const notEmpty = {
  found: 'is not empty',
  advice: 'give another folder, --overwrite_output_dir, or --resume_from_checkpoint latest',
};
const withoutCheckpoint = {
  found: 'holds a run that this one does not go on with',
  advice: 'give another folder, or --overwrite_output_dir in place of --resume_from_checkpoint',
};

function refuse(folder: string, names: readonly string[], { found, advice }: typeof notEmpty): void {
  if (names.length === 0) return;
  const shown = `${names.slice(0, 3).join(', ')}${names.length > 3 ? ', ...' : ''}`;
  throw new UserError(`--output_dir ${folder} ${found} (${shown}): ${advice}`);
}

function resultsAmong(found: readonly string[], folder: string): string[] {
  const isFinished = () => readRunRecord(join(folder, 'run.json')).status === 'finished';
  return found.filter((name) => result.test(name) || (name === 'run.json' && isFinished()));
}

function refuseToDelete(inputs: readonly string[], folder: string, unwanted: readonly string[]): void {
  // Of a link the link alone is removed.
  const removed = unwanted.map((name) => join(realpathSync(folder), name, sep));
  for (const input of inputs) {
    const path = join(realpathSync(input), sep);
    if (removed.some((place) => path.startsWith(place)))
      throw new UserError(
        `--output_dir ${folder}: what an earlier run left there is deleted first, with ${input}, which this run reads: give another folder`,
      );
  }
}

/** @throws UserError where --export_dir cannot be made or written; nothing is made yet */
export function checkExportFolder(folder: string): void {
  let nearest = folder;
  while (!existsSync(nearest)) nearest = dirname(nearest);
  if (!statSync(nearest).isDirectory())
    throw new UserError(`--export_dir ${folder}: ${nearest} is a file; give a folder that can be written`);
  try {
    accessSync(nearest, constants.W_OK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new UserError(
      `--export_dir ${folder}: ${nearest} cannot be written (${code}); give a folder that can be written`,
    );
  }
}

/** @throws UserError where --export_dir is one of the folders that the run reads or writes otherwise */
export function refuseToExportOver(folder: string, used: readonly string[]): void {
  const over = used.find((other) => realPath(other) === realPath(folder));
  if (over) throw new UserError(`--export_dir ${folder}: this run keeps other files in ${over}: give another folder`);
}

/** A path without links, whether or not its end exists. */
function realPath(path: string): string {
  return existsSync(path) ? realpathSync(path) : join(realPath(dirname(path)), basename(path));
}

/** Makes a folder and tells whether it was missing. */
function makeFolder(folder: string): boolean {
  try {
    return mkdirSync(folder, { recursive: true }) !== undefined;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const found = code === 'EEXIST' || code === 'ENOTDIR' ? 'a file is in its place' : `it cannot be made (${code})`;
    throw new UserError(`--output_dir ${folder}: ${found}; give a folder that can be written`);
  }
}

/** Takes the folder's lock; one left by a killed run is free. */
function takeLock(folder: string): FileLock {
  const lock = lockFolder(folder);
  if ('heldBy' in lock)
    throw new UserError(
      `--output_dir ${folder} is in use by process ${lock.heldBy}, here or in another container: wait for it, or give another folder`,
    );
  return lock;
}

function lockFolder(folder: string) {
  try {
    return tryLock(join(folder, lockFile));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new UserError(`--output_dir ${folder}: cannot be written (${code}); give a folder that can`);
  }
}
