import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { UserError } from './user-error.ts';

const lockFile = '.running';

/**
 * Takes a run's folder for this process; returns a function that gives it back.
 * @throws UserError where another run is using it, or it holds files and neither overwriting nor resuming was asked for
 */
export function claimOutputFolder(
  folder: string,
  { overwrite, resume }: { overwrite: boolean; resume: boolean },
): () => void {
  mkdirSync(folder, { recursive: true });
  const lock = join(folder, lockFile);
  const owner = existsSync(lock) ? Number(readFileSync(lock, 'utf8')) : undefined;
  if (owner && owner !== process.pid && isAlive(owner))
    throw new UserError(`--output_dir ${folder} is in use by process ${owner}: wait for it, or give another folder`);
  const found = readdirSync(folder).filter((name) => name !== lockFile);
  if (found.length > 0 && !overwrite && !resume)
    throw new UserError(
      `--output_dir ${folder} is not empty (${found.slice(0, 3).join(', ')}${found.length > 3 ? ', ...' : ''}): ` +
        'give another folder, --overwrite_output_dir, or --resume_from_checkpoint latest',
    );
  // A later resume must not find an earlier run's checkpoints.
  if (overwrite && !resume)
    found
      .filter((name) => /^checkpoint-\d+(\.partial)?$/.test(name))
      .forEach((name) => rmSync(join(folder, name), { recursive: true }));
  writeFileSync(lock, String(process.pid));
  return () => rmSync(lock, { force: true });
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
