import { isAlive } from '@blockwise/loaders';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { UserError } from './user-error.ts';

const lockFile = '.running';
/** Half-written checkpoints, which only a killed run leaves. */
const partialCheckpoint = /^checkpoint-\d+\.partial$/;
/** What a run leaves behind, and nothing that a user may have put beside it. */
const leftByARun =
  /^(checkpoint-\d+(\.partial)?|model|tensorboard|log\.jsonl|loss\.csv|loss\.png|memory\.md|run\.json)$/;

/** A run's folder while this process has it for itself. */
export interface OutputFolder {
  /** Removes what an earlier run left and the new one does not go on from. Called when the new run can begin: not before. */
  clear(): void;
  /** Gives the folder back; one in which nothing was written is removed again. */
  release(): void;
}

/**
 * Takes a run's folder for this process. Nothing in it is changed yet.
 * @throws UserError where it cannot be made, another run is using it, or it holds files and neither overwriting nor resuming was asked for
 */
export function claimOutputFolder(
  folder: string,
  { overwrite, resume }: { overwrite: boolean; resume: boolean },
): OutputFolder {
  const made = makeFolder(folder);
  const lock = join(folder, lockFile);
  takeLock(folder, lock);
  const release = () => {
    rmSync(lock, { force: true });
    if (made && readdirSync(folder).length === 0) rmdirSync(folder);
  };
  const found = readdirSync(folder).filter((name) => name !== lockFile);
  if (found.length > 0 && !overwrite && !resume) {
    release();
    throw new UserError(
      `--output_dir ${folder} is not empty (${found.slice(0, 3).join(', ')}${found.length > 3 ? ', ...' : ''}): ` +
        'give another folder, --overwrite_output_dir, or --resume_from_checkpoint latest',
    );
  }
  const unwanted = resume ? partialCheckpoint : leftByARun;
  const clear = () =>
    found.filter((name) => unwanted.test(name)).forEach((name) => rmSync(join(folder, name), { recursive: true }));
  return { clear, release };
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

/** Writes the lock, which one process at a time can do; a lock left by a killed run is taken over. */
function takeLock(folder: string, lock: string): void {
  for (;;) {
    try {
      return writeFileSync(lock, String(process.pid), { flag: 'wx' });
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== 'EEXIST')
        throw new UserError(`--output_dir ${folder}: cannot be written (${code}); give a folder that can`);
    }
    const owner = Number(existsSync(lock) ? readFileSync(lock, 'utf8') : 0);
    // In a container the killed run may have had this process's own number.
    if (owner && owner !== process.pid && isAlive(owner))
      throw new UserError(
        `--output_dir ${folder} is in use by process ${owner}: wait for it, or give another folder ` +
          `(if that process is no run of ours, delete ${lock})`,
      );
    rmSync(lock, { force: true });
  }
}
