/**
 * The memory planner's peak against the measured one, case by case in processes of their own: `npx nx run experiments:bench-planner`, or some
 * cases alone: `... -- m110 b1_1`, which leaves the record as it is.
 */
import { createRandom } from '@blockwise/loaders';
import {
  freshLlama,
  llama2_7b,
  llama3_8b,
  llama_110m,
  llama_1_1b,
  llama_defaults,
  llamaConfigJson,
  openLlama,
  saveHollowLlama,
  type LlamaConfig,
  type WeightDtype,
} from '@blockwise/model-zoo';
import { adamW, BlockOptimizer } from '@blockwise/optimizers';
import { initTensorFlow } from '@blockwise/tensorflow';
import { planMemory } from '@blockwise/training';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { tiny, tinyConfig } from './tiny.ts';
import { randomBatch, writeJob, type TrainJob } from './train-job.ts';
import { scriptCommand, startTraining } from './worker.ts';
import { gigabytes, round, writeBenchmark } from './write-benchmark.ts';

const seed = 1;

interface Case {
  name: string;
  config: LlamaConfig;
  dtype: WeightDtype;
  /** The trained layer; null: all parameters, AdamW. */
  block: number | null;
  batchSize: number;
  length: number;
  /** Weights mapped from files. */
  streamed?: true;
}

const small: LlamaConfig = {
  ...llama_defaults,
  vocab_size: 8000,
  hidden_size: 256,
  intermediate_size: 688,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 4,
  head_dim: 64,
};
const deep: LlamaConfig = {
  ...llama_defaults,
  vocab_size: 4000,
  hidden_size: 512,
  intermediate_size: 1376,
  num_attention_heads: 8,
  num_key_value_heads: 8,
  head_dim: 64,
};

const bf16 = 'bfloat16';
const cases: Case[] = tiny
  ? [
      { name: 'tiny, BAdam', config: tinyConfig, dtype: bf16, block: 1, batchSize: 2, length: 32 },
      { name: 'tiny, AdamW', config: tinyConfig, dtype: 'float32', block: null, batchSize: 2, length: 32 },
    ]
  : [
      { name: 'small, BAdam', config: small, dtype: bf16, block: 2, batchSize: 8, length: 256 },
      { name: 'small, AdamW', config: small, dtype: 'float32', block: null, batchSize: 8, length: 256 },
      { name: 'small, long rows', config: small, dtype: bf16, block: 0, batchSize: 1, length: 1024 },
      { name: '32 layers', config: deep, dtype: 'float32', block: 0, batchSize: 2, length: 256 },
      { name: 'm110', config: llama_110m, dtype: bf16, block: 6, batchSize: 4, length: 256 },
      { name: 'm110, float32', config: llama_110m, dtype: 'float32', block: 6, batchSize: 4, length: 256 },
      { name: 'm110, AdamW', config: llama_110m, dtype: 'float32', block: null, batchSize: 4, length: 256 },
      { name: 'm110, streamed', config: llama_110m, dtype: bf16, block: 6, batchSize: 4, length: 256, streamed: true },
      { name: 'b1_1', config: llama_1_1b, dtype: bf16, block: 6, batchSize: 2, length: 256 },
      { name: '7b, 128 tokens', config: llama2_7b, dtype: bf16, block: 16, batchSize: 1, length: 128 },
      { name: '7b, 728 tokens', config: llama2_7b, dtype: bf16, block: 16, batchSize: 1, length: 728 },
      { name: '8b, 128 tokens', config: llama3_8b, dtype: bf16, block: 16, batchSize: 1, length: 128 },
      { name: '7b, streamed', config: llama2_7b, dtype: bf16, block: 16, batchSize: 1, length: 128, streamed: true },
      { name: '8b, streamed', config: llama3_8b, dtype: bf16, block: 16, batchSize: 1, length: 128, streamed: true },
    ];

/** The case's own model and optimizer, rehearsed: as train-worker.ts makes them. */
function plan({ config, dtype, block, batchSize, length, streamed }: Case, folder: string, baseBytes: number) {
  const prepare = () => {
    const model = streamed ? openLlama(folder, { dtype, streamed }).model : freshLlama(config, { seed, dtype });
    const parameters = [...model.parameters.values()];
    const fixed = { switchMode: 'fixed', startBlock: block ?? 0, switchBlockEvery: 1000 } as const;
    const rule = adamW({ learningRate: 1e-5 });
    return { model, optimizer: block === null ? rule(parameters) : new BlockOptimizer(rule, parameters, fixed) };
  };
  const options = { gradientAccumulationSteps: 1, maxGradNorm: 0 };
  return planMemory({ prepare, options, batchSize, length, baseBytes, steps: 3 });
}

async function measure({ name, config, dtype, block, batchSize, length, streamed }: Case, folder: string) {
  const random = createRandom(seed, length);
  const batch = () => randomBatch(config.vocab_size, batchSize, length, random);
  const hf = llamaConfigJson(config);
  const rounds = [[batch()], [batch()], [batch()]];
  const weights = streamed ? { folder, streamed } : { seed };
  const job: TrainJob = { config, hf, weights, dtype, block, peakFromLoading: true, warmUp: [batch()], rounds };
  if (streamed) {
    const [program, ...words] = scriptCommand('save-fresh.ts', writeJob({ ...job, weights: { seed } }), folder);
    execFileSync(program, words, { stdio: ['ignore', 2, 2] });
  }
  const worker = await startTraining(name, job);
  let last = await worker.round();
  for (let i = 1; i < rounds.length; i++) last = await worker.round();
  await worker.end();
  return { ready: worker.ready, last };
}

/** A case with its error: of the resident peak, or where weights are streamed, whose pages the system may drop, of the anonymous one. */
async function run(one: Case) {
  const folder = mkdtempSync(join(process.env.TMPDIR ?? tmpdir(), 'bench-planner-'));
  try {
    if (one.streamed) await saveHollowLlama(folder, one.config, one.dtype);
    const planned = await plan(one, folder, 0);
    const { ready, last } = await measure(one, folder);
    const peak = planned.peak + ready.baseBytes;
    const anonymous = planned.anonymous + (ready.baseAnonymous ?? NaN);
    const [expected, found] = one.streamed ? [anonymous, last.peakAnonymous ?? NaN] : [peak, last.peakResident];
    const error = expected / found - 1;
    process.stderr.write(`${one.name}: planned ${gigabytes(expected)} GB, measured ${gigabytes(found)} GB, ${(100 * error).toFixed(1)}%\n`); // prettier-ignore
    return { ...one, planned, expected, found, error, ready, last };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Names given on the command line choose cases; without them all run. */
const wanted = process.argv.slice(2).filter((word) => word !== '--');
await initTensorFlow();
const results = [];
for (const one of cases) if (wanted.length === 0 || wanted.includes(one.name)) results.push(await run(one));

const figures = { worstError: round(Math.max(...results.map(({ error }) => Math.abs(error)))) };
const result = {
  name: 'bench-planner',
  title: 'Peak memory: planned and measured',
  seed,
  figures,
  rows: results.map(({ name, dtype, block, batchSize, length, streamed, planned, expected, found, error }) => ({
    case: name,
    'weights at rest': streamed ? `${dtype}, mapped` : dtype,
    trained: block === null ? 'all, AdamW' : `block ${block}, BAdam`,
    tokens: `${batchSize} x ${length}`,
    'parameters GB': gigabytes(planned.parameters),
    'gradients GB': gigabytes(planned.gradients),
    'optimizer states GB': gigabytes(planned.optimizerStates),
    'activations GB': gigabytes(planned.activations),
    'workspace GB': gigabytes(planned.workspace),
    'planned peak GB': gigabytes(expected),
    'measured peak GB': gigabytes(found),
    'error %': round(100 * error, 3),
  })),
  notes: [
    'Measured: VmHWM, from the loading of the model on, of a process of its own that makes the model and takes four steps; mapped weights: the highest of samples of RssAnon every 20 ms, since their pages may be dropped. Planned: planMemory(), which rehearses the same steps without computing, beside what that process had before it made the model. Gradients are applied as they appear.',
  ],
  measurements: results.map(({ ready, last, ...rest }) => ({ ...rest, base: ready.baseBytes, measured: last })),
  versions: results[0].ready.versions,
};
// The record is of all cases together.
if (wanted.length > 0) process.stdout.write(`${JSON.stringify(figures)}\n`);
else writeBenchmark(result);
