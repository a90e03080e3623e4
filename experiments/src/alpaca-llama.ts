/**
 * Fine-tunes a Llama on instructions with BAdam and leaves the record, the plots and the model in results/alpaca-llama/<run>/.
 *
 *   npx nx run experiments:alpaca-llama                 the embedded model and data, offline
 *   npx nx run experiments:alpaca-llama -- --help       every option
 *
 * Exit codes: 0 done, 2 a mistake in options or files, 130 interrupted (a checkpoint was written), 1 anything else.
 */
import process from 'node:process';
import { parseCommandLine } from './command-line.ts';
import { fineTune } from './fine-tune.ts';

async function main(words: readonly string[]): Promise<number> {
  const commandLine = parseCommandLine(words);
  if (commandLine.kind === 'help') {
    process.stdout.write(commandLine.text);
    return 0;
  }
  for (const warning of commandLine.warnings) process.stderr.write(`warning: ${warning}\n`);
  const interrupt = new AbortController();
  const onSignal = () => {
    if (interrupt.signal.aborted) process.exit(130);
    process.stderr.write('\nstopping after this step; once more to stop at once\n');
    interrupt.abort();
  };
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  const { interrupted } = await fineTune(commandLine.options, commandLine.command, { signal: interrupt.signal });
  return interrupted ? 130 : 0;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  const isUserError = (error as Error).name === 'UserError';
  process.stderr.write(isUserError ? `error: ${(error as Error).message}\n` : `${(error as Error).stack}\n`);
  process.exitCode = isUserError ? 2 : 1;
}
