/**
 * The memory planner's peak against the measured one, case by case in processes of their own: `npx nx run experiments:bench-planner`, or some
 * cases alone: `... -- m110 b1_1`, which leaves the record as it is. The 7B and 8B shapes are planned where they are measured, in bench-7b and
 * bench-8b: run those before, their records count here.
 */
import { createRandom } from '@blockwise/loaders';
import {
  llama_110m,
  llama_1_1b,
  llama_defaults,
  llamaConfigJson,
  type LlamaConfig,
  type WeightDtype,
} from '@blockwise/model-zoo';
import { initTensorFlow } from '@blockwise/tensorflow';
import { chooseParts } from './choose-parts.ts';
import type { PlannedRun } from './large-model.ts';
import { comparePeak, planJob, type PlannedPeak } from './plan-job.ts';
import { tiny, tinyConfig } from './tiny.ts';
import { randomBatch, type TrainJob } from './train-job.ts';
import { fromCheckpoint, startTraining } from './worker.ts';
import { gigabytes, lastMeasurements, note, round, writeBenchmark } from './write-benchmark.ts';

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
  /** Default 16: in some orders of operations TensorFlow's pool grows for good, and a long run meets one. */
  steps?: number;
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
      { name: 'b1_1', config: llama_1_1b, dtype: bf16, block: 6, batchSize: 2, length: 256, steps: 4 },
    ];

function jobOf({ config, dtype, block, batchSize, length, streamed, steps = tiny ? 4 : 16 }: Case): TrainJob {
  const random = createRandom(seed, length);
  const batch = () => randomBatch(config.vocab_size, batchSize, length, random);
  const hf = llamaConfigJson(config);
  const rounds = Array.from({ length: steps - 1 }, () => [batch()]);
  const job: TrainJob = {
    config,
    hf,
    weights: { seed },
    dtype,
    block,
    peakFromLoading: true,
    warmUp: [batch()],
    rounds,
  };
  if (!streamed) return job;
  const saved = fromCheckpoint(job);
  return { ...saved, weights: { ...saved.weights, streamed } };
}

async function measure(name: string, job: TrainJob) {
  const worker = await startTraining(name, job);
  let last = await worker.round();
  for (let i = 1; i < job.rounds.length; i++) last = await worker.round();
  await worker.end();
  return { ready: worker.ready, last };
}

/** Processes that a case is measured in: the same run's peak differs by 20 to 30 MB from one to the next. */
const processes = tiny ? 1 : 5;

/** What the tables show of a case, whoever measured it. */
interface Result extends PlannedPeak {
  name: string;
  batchSize: number;
  length: number;
  dtype: string;
  block: number | null;
  mapped: boolean;
  /** Of all processes, in rising order; the result is that of the one in the middle. */
  errors: number[];
}

async function run(one: Case): Promise<Result & { versions: Record<string, string> }> {
  const job = jobOf(one);
  const planned = await planJob(job);
  const peaks: PlannedPeak[] = [];
  let versions: Record<string, string> = {};
  while (peaks.length < processes) {
    const { ready, last } = await measure(one.name, job);
    const peak = comparePeak(job, planned, ready, last);
    note(`${one.name}: planned ${gigabytes(peak.expected)} GB, measured ${gigabytes(peak.found)} GB, ${(100 * peak.error).toFixed(1)}%`); // prettier-ignore
    peaks.push(peak);
    versions = ready.versions;
  }
  peaks.sort((a, b) => a.error - b.error);
  const errors = peaks.map(({ error }) => error);
  const { name, batchSize, length, dtype, block } = one;
  const shape = { name, batchSize, length, dtype, block, mapped: one.streamed === true };
  return { ...shape, ...peaks[(processes - 1) / 2], errors, versions };
}

/** The cases of bench-7b or bench-8b, as its last run on this machine planned and measured them. */
function largeCases(name: 'bench-7b' | 'bench-8b'): Result[] {
  const plans = lastMeasurements(name)?.plans as PlannedRun[] | undefined;
  if (!plans) note(`${name} has not run on this machine: its cases are left out`);
  return (plans ?? []).map(({ way, length, ...peak }) => ({
    ...{ name: `${name.slice(6)}, ${way}`, batchSize: 1, length, dtype: bf16, block: 16, mapped: true, ...peak },
    errors: [peak.error],
  }));
}

const { parts, isWhole } = chooseParts(cases.map(({ name }) => name));
await initTensorFlow();
const own = [];
for (const one of cases) if (parts.includes(one.name)) own.push(await run(one));
const results: Result[] = [...own, ...(isWhole ? [...largeCases('bench-7b'), ...largeCases('bench-8b')] : [])];

const worst = (errors: readonly number[]) => round(Math.max(...errors.map(Math.abs)));
writeBenchmark({
  isWhole,
  name: 'bench-planner',
  title: 'Peak memory: planned and measured',
  seed,
  figures: {
    worstError: worst(results.map(({ error }) => error)),
    worstSingleProcess: worst(results.flatMap(({ errors }) => errors)),
  },
  rows: results.map(({ name, dtype, block, batchSize, length, mapped, planned, expected, found, error, errors }) => ({
    case: name,
    'weights at rest': mapped ? `${dtype}, mapped` : dtype,
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
    'min - max': errors.length > 1 ? [errors[0], errors.at(-1)!].map((end) => round(100 * end, 3)).join(' - ') : null,
  })),
  notes: [
    'Measured: VmHWM, from the loading of the model on, of a process of its own that makes the model and takes 16 steps (b1_1: 4); streamed weights: the highest of samples of RssAnon every 20 ms, since their pages may be dropped. Planned: planMemory(), which rehearses such steps without computing, beside what that process had before it made the model. Gradients are applied as they appear. A case is run by five processes one after the other and shows the one whose error is in the middle; 7b and 8b by one.',
    'Streamed weights: the anonymous peak. 7b and 8b: as the last bench-7b and bench-8b on this machine planned and measured them.',
  ],
  measurements: results,
  versions: own[0].versions,
});
