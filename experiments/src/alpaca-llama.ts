/**
 * Fine-tunes a Llama on instructions with BAdam and leaves the record, the plots and the model in results/alpaca-llama/<run>/.
 *
 *   npx nx run experiments:alpaca-llama                 the embedded model and data, offline
 *   npx nx run experiments:alpaca-llama -- --help       every option
 *
 * Exit codes: 0 done, 2 a mistake in options or files, 130 interrupted (with a checkpoint, or before training), 1 anything else.
 */
import process from 'node:process';
import { runCommand } from './run-command.ts';

// Of a signal between the end of the run and that of the process nothing is left to stop.
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => {});

// Not by exitCode: what was interrupted, a download, may still be under way.
process.exit(await runCommand(process.argv.slice(2)));
