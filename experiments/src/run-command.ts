import { UserError } from '@blockwise/errors';
import process from 'node:process';
import { parseCommandLine } from './command-line.ts';
import { fineTune } from './fine-tune.ts';

/** Where a command's lines go. */
export interface CommandStreams {
  stdout: NodeJS.WriteStream;
  stderr: NodeJS.WritableStream;
}

/**
 * The command from its words to its exit code: 0 done, 2 a mistake in options or files, 130 interrupted (with a checkpoint, or before
 * training, with nothing changed), 1 anything else. Errors go to stderr.
 */
export async function runCommand(words: readonly string[], streams: CommandStreams = process): Promise<number> {
  const { stdout, stderr } = streams;
  for (const stream of [stdout, stderr]) stream.on('error', ignoreBrokenPipe);
  const interrupt = new AbortController();
  const stopListening = onInterrupt(interrupt, stderr);
  try {
    const commandLine = parseCommandLine(words);
    if (commandLine.kind === 'help') {
      stdout.write(commandLine.text);
      return 0;
    }
    for (const warning of commandLine.warnings) stderr.write(`warning: ${warning}\n`);
    const { options, command } = commandLine;
    const { interrupted } = await fineTune(options, command, { signal: interrupt.signal, stream: stdout });
    return interrupted ? 130 : 0;
  } catch (error) {
    if (interrupt.signal.aborted && error === interrupt.signal.reason) {
      stderr.write('stopped before training: the output folder is as it was\n');
      return 130;
    }
    return tellError(error as Error, stderr);
  } finally {
    stopListening();
  }
}

/** What a system refuses for reasons of its user's: full, read-only or broken disks, limits. */
const systemCodes = new Set(['ENOSPC', 'EDQUOT', 'EROFS', 'EACCES', 'EPERM', 'EIO', 'EFBIG', 'EMFILE', 'ENFILE']);

/** A user's error, or the system's, as its message alone, a bug with its stack. Returns the exit code. */
export function tellError(error: Error, stderr: NodeJS.WritableStream): number {
  const isBug = !(error instanceof UserError) && !systemCodes.has((error as NodeJS.ErrnoException).code!);
  stderr.write(isBug ? `${error.stack}\n` : `error: ${printable(error.message)}\n`);
  return isBug ? 1 : 2;
}

/** A message without characters that a terminal obeys: what it quotes may come from anybody's file. */
function printable(message: string): string {
  const escape = (control: string) => `\\x${control.charCodeAt(0).toString(16).padStart(2, '0')}`;
  return message.replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/g, escape);
}

/** Who read the output may be gone (`| head`; Ctrl-C ends `| tee` too): the run goes on, and saves what it has to save. */
function ignoreBrokenPipe(error: NodeJS.ErrnoException): void {
  if (error.code !== 'EPIPE') throw error;
}

/** One Ctrl-C arrives several times: from the terminal, from nx, from npm. Within so many milliseconds they are one. */
const oneInterrupt = 1000;

/** The first signal stops the run as FineTuneControl says; a later one stops the process at once. */
function onInterrupt(interrupt: AbortController, stderr: NodeJS.WritableStream): () => void {
  let first = 0;
  const onSignal = () => {
    if (!interrupt.signal.aborted) {
      first = performance.now();
      stderr.write('\nstopping as soon as all that was trained is saved; once more to stop at once\n');
      interrupt.abort();
    } else if (performance.now() - first > oneInterrupt) process.exit(130);
  };
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  return () => void process.off('SIGINT', onSignal).off('SIGTERM', onSignal);
}
