import { UserError } from '@blockwise/errors';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { repository } from '../embedded.ts';

/**
 * A Python with the packages of requirements.txt: that of BLOCKWISE_BENCH_PYTHON, or of an environment under datasets/cache, which is made
 * here the first time (several GB, by pip, with the settings that pip has). Deleting the folder loses nothing.
 * @throws UserError where there is no Python, or pip fails
 */
export function benchPython(note: (line: string) => void, cache = join(repository, 'datasets/cache')): string {
  const named = process.env.BLOCKWISE_BENCH_PYTHON;
  if (named) {
    if (!existsSync(named)) throw new UserError(`BLOCKWISE_BENCH_PYTHON: there is no ${named}; name a Python program`);
    return named;
  }
  const requirements = fileURLToPath(new URL('requirements.txt', import.meta.url));
  const key = createHash('sha256').update(readFileSync(requirements)).digest('hex').slice(0, 12);
  const folder = join(cache, 'bench-python', key);
  const python = join(folder, 'bin/python');
  const complete = join(folder, 'complete');
  if (existsSync(complete)) return python;
  note(`making a Python environment in ${folder}: this takes some minutes and 7 GB`);
  rmSync(folder, { recursive: true, force: true });
  try {
    // Standard output is kept for the benchmark's own lines.
    execFileSync('python3', ['-m', 'venv', folder], { stdio: ['ignore', 2, 2] });
    const install = ['-m', 'pip', 'install', '--disable-pip-version-check', '--no-cache-dir', '-r', requirements];
    execFileSync(python, install, { stdio: ['ignore', 2, 2] });
  } catch (error) {
    throw new UserError(
      `the Python environment for the comparison could not be made (${(error as Error).message}). It needs python3 with venv and a pip that ` +
        `reaches its packages; or set BLOCKWISE_BENCH_PYTHON to a Python that has those of ${requirements}`,
    );
  }
  writeFileSync(complete, '');
  return python;
}
