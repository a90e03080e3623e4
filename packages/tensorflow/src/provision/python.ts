import { UserError } from '@blockwise/errors';
import { execFile } from 'node:child_process';
import process from 'node:process';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** A command with its leading arguments, for example `python3 -m pip`. */
export interface Command {
  file: string;
  args: readonly string[];
}

/** Longest wait for an interpreter to answer a question, in milliseconds: slow disks make Python slow to start. */
const patience = 60_000;

/** Interpreters to try, in order: the one that BLOCKWISE_PYTHON names and no other, else those on the PATH. */
export function pythonInterpreters(): readonly string[] {
  return process.env.BLOCKWISE_PYTHON ? [process.env.BLOCKWISE_PYTHON] : ['python3', 'python'];
}

/** The standard output of a command, or undefined where it is absent, fails or does not answer. */
export async function outputOf(file: string, args: readonly string[]): Promise<string | undefined> {
  try {
    return (await run(file, args, { timeout: patience })).stdout;
  } catch {
    return undefined;
  }
}

/**
 * The first pip that answers: `python3 -m pip`, `python -m pip`, then `pip3` and `pip`.
 * @throws UserError when there is none, with what was tried
 */
export async function findPip(): Promise<Command> {
  const candidates: Command[] = pythonInterpreters().map((file) => ({ file, args: ['-m', 'pip'] }));
  if (!process.env.BLOCKWISE_PYTHON) candidates.push({ file: 'pip3', args: [] }, { file: 'pip', args: [] });
  for (const pip of candidates) {
    if ((await outputOf(pip.file, [...pip.args, '--version'])) !== undefined) return pip;
  }
  throw new UserError(
    'pip is needed once, to download the TensorFlow library, and was not found.\n' +
      `  Tried: ${candidates.map(({ file, args }) => [file, ...args].join(' ')).join(', ')}.\n` +
      '  What to do: install Python 3 with pip (for example `apt install python3-pip` or `brew install python`), or set ' +
      'BLOCKWISE_PYTHON to an interpreter that has pip, or set BLOCKWISE_TENSORFLOW to a folder that holds the library.',
  );
}
