/** The memory planner's peak against the measured one, case by case in processes of their own. `npx nx run experiments:bench-planner` */
import { createRandom } from '@blockwise/loaders';
import {
  llama2_7b,
  llama3_8b,
  llama_110m,
  llama_1_1b,
  llama_defaults,
  llamaConfigJson,
  parameterCount,
  type LlamaConfig,
  type WeightDtype,
} from '@blockwise/model-zoo';
import { planMemory, type MemoryPlan } from '@blockwise/training';
import process from 'node:process';
import { tiny, tinyConfig } from './tiny.ts';
import { randomBatch, type TrainJob } from './train-job.ts';
import { startTraining } from './worker.ts';
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
      { name: 'b1_1', config: llama_1_1b, dtype: bf16, block: 6, batchSize: 2, length: 256 },
      { name: '7b, 128 tokens', config: llama2_7b, dtype: bf16, block: 16, batchSize: 1, length: 128 },
      { name: '7b, 728 tokens', config: llama2_7b, dtype: bf16, block: 16, batchSize: 1, length: 728 },
      { name: '8b, 128 tokens', config: llama3_8b, dtype: bf16, block: 16, batchSize: 1, length: 128 },
    ];

function plan({ config, dtype, block, batchSize, length }: Case, baseBytes: number): MemoryPlan {
  const { total, stages } = parameterCount(config);
  const stageCount = config.num_hidden_layers + 2;
  const lowest = block === null ? 0 : block + 1; // the embedding is stage 0
  return planMemory({
    ...{ config, batchSize, length, baseBytes },
    storageBytes: dtype === 'float32' ? 4 : 2,
    trainedElements: block === null ? total : stages[lowest].parameters,
    stateBytes: 8,
    keptStages: stageCount - Math.max(lowest, 1), // what the embedding is given are ids
    gradientAccumulationSteps: 1,
    clipped: false,
  });
}

async function measure({ name, config, dtype, block, batchSize, length }: Case) {
  const random = createRandom(seed, length);
  const batch = () => randomBatch(config.vocab_size, batchSize, length, random);
  const hf = llamaConfigJson(config);
  const rounds = [[batch()], [batch()], [batch()]];
  const job: TrainJob = { config, hf, weights: { seed }, dtype, block, warmUp: [batch()], rounds };
  const worker = await startTraining(name, job);
  let { peakResident } = worker.ready;
  for (let i = 0; i < rounds.length; i++) ({ peakResident } = await worker.round());
  await worker.end();
  return { ready: worker.ready, peakResident };
}

const results = [];
for (const one of cases) {
  const { ready, peakResident } = await measure(one);
  const planned = plan(one, ready.baseBytes);
  const error = planned.peak / peakResident - 1;
  process.stderr.write(
    `${one.name}: planned ${gigabytes(planned.peak)} GB, measured ${gigabytes(peakResident)} GB, ${(100 * error).toFixed(1)}%\n`,
  );
  results.push({ ...one, planned, peakResident, error, versions: ready.versions });
}

writeBenchmark({
  name: 'bench-planner',
  title: 'Peak memory: planned and measured',
  seed,
  figures: { worstError: round(Math.max(...results.map(({ error }) => Math.abs(error)))) },
  rows: results.map(({ name, dtype, block, batchSize, length, planned, peakResident, error }) => ({
    case: name,
    'weights at rest': dtype,
    trained: block === null ? 'all, AdamW' : `block ${block}, BAdam`,
    tokens: `${batchSize} x ${length}`,
    'parameters GB': gigabytes(planned.parameters),
    'gradients GB': gigabytes(planned.gradients),
    'optimizer states GB': gigabytes(planned.optimizerStates),
    'activations GB': gigabytes(planned.activations),
    'workspace GB': gigabytes(planned.workspace),
    'planned peak GB': gigabytes(planned.peak),
    'measured peak GB': gigabytes(peakResident),
    'error %': round(100 * error, 3),
  })),
  notes: [
    'Measured: VmHWM of a process of its own that makes the model and takes four steps. Planned: planMemory() with the resident memory before the model was made. Weights resident; gradients applied as they appear.',
  ],
  measurements: results,
  versions: results[0].versions,
});
