/**
 * What a run would take of the memory, before it is made and without its weights:
 *
 *   npx nx run experiments:memory -- --model llama-2-7b --method block --per_device_train_batch_size 1 --cutoff_len 728
 *
 * The options are those of alpaca-llama; `--model` is a folder with config.json, a known name or embedded, `--method` a
 * --finetuning_type. `--streamed` plans frozen weights that leave memory after each use, `--streamed false` copies in memory; by default as the run
 * would do: mapped where the files have the dtype that is asked for. The last line printed is one JSON object, in bytes.
 */
import { UserError } from '@blockwise/errors';
import {
  llama2_7b,
  llama3_1_8b,
  llama3_8b,
  llama_110m,
  llama_1_1b,
  parameterCount,
  readBitNetConfig,
  readLlamaConfig,
  saveHollowBitNet,
  saveHollowLlama,
  type LlamaConfig,
  type WeightDtype,
} from '@blockwise/model-zoo';
import { initTensorFlow, readMemory } from '@blockwise/tensorflow';
import type { PlannedMemory } from '@blockwise/training';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { parseCommandLine } from './command-line.ts';
import { embedded } from './embedded.ts';
import { isBitNet, storageOf } from './open-model.ts';
import type { Options } from './options.ts';
import { planRun } from './plan-run.ts';
import { tellError } from './run-command.ts';

/** Models that are planned by name. */
const known: Record<string, LlamaConfig> = {
  'llama-2-7b': llama2_7b,
  'llama-3-8b': llama3_8b,
  'llama-3.1-8b': llama3_1_8b,
  'tinyllama-1.1b': llama_1_1b,
  'llama-110m': llama_110m,
};

/** A model's config, and how to write a model of it without weights. */
interface Planned {
  config: LlamaConfig;
  saveHollow(folder: string, dtype: WeightDtype): Promise<void>;
}

function modelOf({ modelNameOrPath: name, finetuningType }: Options): Planned {
  const llama = (config: LlamaConfig): Planned => ({
    config,
    saveHollow: (folder, dtype) => saveHollowLlama(folder, config, dtype),
  });
  const config = known[name.toLowerCase()];
  if (config) return llama(config);
  const folder = name === 'embedded' ? embedded.model : name;
  if (!existsSync(join(folder, 'config.json')))
    throw new UserError(
      `--model ${name}: neither a folder with config.json nor a known name; known are embedded, ${Object.keys(known).join(', ')}`,
    );
  if (finetuningType !== 'bitnet' || !isBitNet(folder)) return llama(readLlamaConfig(folder).config);
  const bitnet = readBitNetConfig(folder);
  return { config: bitnet.config, saveHollow: (folder, dtype) => saveHollowBitNet(folder, bitnet, dtype) };
}

/** The dtype of the imagined files: that of the weights at rest maps them, any other makes copies. */
function fileDtype({ dtype }: LlamaConfig, options: Options, saysStreamed: boolean): WeightDtype {
  const storage = storageOf(options);
  if (!saysStreamed) return dtype ?? 'float32';
  return options.streamed ? storage : storage === 'float32' ? 'bfloat16' : 'float32';
}

async function plan(options: Options, { config, saveHollow }: Planned, saysStreamed: boolean): Promise<PlannedMemory> {
  const folder = mkdtempSync(join(tmpdir(), 'blockwise-plan-'));
  try {
    await saveHollow(folder, fileDtype(config, options, saysStreamed));
    await initTensorFlow({ device: options.device });
    const baseBytes = readMemory().resident;
    return await planRun({ options, folder, length: options.cutoffLen, baseBytes });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(3)} GB`;

function table(options: Options, config: LlamaConfig, planned: PlannedMemory): string {
  const { total } = parameterCount(config);
  const { perDeviceTrainBatchSize: batch, cutoffLen, gradientAccumulationSteps: accumulated } = options;
  const { parameters, gradients, optimizerStates, activations, workspace, peak, anonymous, fileBacked } = planned;
  const rows: [string, number][] = [
    ['parameters', parameters],
    ['gradients', gradients],
    ['optimizer states', optimizerStates],
    ['activations', activations],
    ['workspace', workspace],
    ['base (Node, TensorFlow)', peak - anonymous - fileBacked],
    ['peak resident', peak],
    ['  of it in files (can be dropped)', fileBacked],
    ['  of it anonymous, base included', peak - fileBacked],
  ];
  const heading = `${options.modelNameOrPath} (${(total / 1e9).toFixed(3)} billion parameters), ${options.finetuningType}, ${accumulated} x ${batch} x ${cutoffLen} tokens`;
  return [heading, ...rows.map(([name, bytes]) => `  ${name.padEnd(34)} ${gigabytes(bytes).padStart(12)}`)].join('\n');
}

try {
  const commandLine = parseCommandLine(process.argv.slice(2));
  if (commandLine.kind === 'help') process.stdout.write(commandLine.text);
  else {
    const { options, given, warnings } = commandLine;
    for (const warning of warnings) process.stderr.write(`warning: ${warning}\n`);
    const model = modelOf(options);
    const planned = await plan(options, model, given.has('streamed'));
    process.stdout.write(`${table(options, model.config, planned)}\n${JSON.stringify(planned)}\n`);
  }
} catch (error) {
  process.exitCode = tellError(error as Error, process.stderr);
}
