import { createRandom } from '@blockwise/loaders';
import { llamaConfigJson, parameterCount, type LlamaConfig } from '@blockwise/model-zoo';
import { initTensorFlow } from '@blockwise/tensorflow';
import process from 'node:process';
import { chooseParts } from './choose-parts.ts';
import { limitMemory } from './memory-limit.ts';
import { comparePeak, planJob, type PlannedPeak } from './plan-job.ts';
import { spread, type Spread } from './spread.ts';
import { tiny, tinyConfig } from './tiny.ts';
import { benchFolder, randomBatch, type Ready, type Round, type TrainJob } from './train-job.ts';
import { fromCheckpoint, startTraining } from './worker.ts';
import { gigabytes, note, range, round, writeBenchmark, type BenchmarkResult } from './write-benchmark.ts';

const seed = 1;
const limitGB = 8;

/** A benchmark of a model near or above the size of memory. */
export interface LargeModel {
  /** The Nx target. */
  name: string;
  title: string;
  config: LlamaConfig;
  /** Tokens of the one sequence; the first length gives the figures. */
  lengths: readonly number[];
}

/** What bench-planner takes from the record: every measured run but the one under a limit. */
export interface PlannedRun extends PlannedPeak {
  way: string;
  length: number;
}

interface Run {
  way: string;
  length: number;
  ready: Ready;
  seconds: Spread;
  last: Round;
  /** Of runs without a limit. */
  plan?: PlannedPeak;
}

/**
 * A full BAdam step with AdamW, block 16, at real dimensions: weights in mapped files, all resident; then streamed (pages of frozen ones
 * leave memory after each use); then streamed in a process held to 8 GB. Needs room for the weights in the folder of temporary files (TMPDIR).
 */
export async function benchLargeModel({
  name,
  title,
  config: whole,
  lengths: wholeLengths,
}: LargeModel): Promise<void> {
  const config = tiny ? tinyConfig : whole;
  const { parts, isWhole } = chooseParts((tiny ? [32] : wholeLengths).map(String));
  const lengths = parts.map(Number);
  const folder = weightsFolder(config);
  await initTensorFlow();
  const runs: Run[] = [];
  for (const length of lengths)
    runs.push(await runPlanned('resident', { ...jobOf(config, length, { folder }), lookUpAll: true }));
  for (const length of lengths)
    runs.push(await runPlanned('streamed', jobOf(config, length, { folder, streamed: true })));
  const limited = await runLimited(jobOf(config, lengths[0], { folder, streamed: true }));
  report({ name, title, isWhole }, config, runs, limited);
}

/** A folder with fresh weights, which goes with this process: or that of BLOCKWISE_BENCH_MODEL, from an earlier save-fresh.ts. */
function weightsFolder(config: LlamaConfig): string {
  const given = process.env.BLOCKWISE_BENCH_MODEL;
  if (given) return given;
  // Ctrl-C must not leave so much behind.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));
  note(`writing ${gigabytes(2 * parameterCount(config).total)} GB of weights to ${benchFolder()}`);
  return fromCheckpoint(jobOf(config, 2, { seed })).weights.folder;
}

function jobOf(config: LlamaConfig, length: number, weights: TrainJob['weights']): TrainJob {
  const random = createRandom(seed, length);
  const batch = () => randomBatch(config.vocab_size, 1, length, random);
  const rounds = Array.from({ length: length > 128 ? 3 : 5 }, () => [batch()]);
  const block = Math.min(16, config.num_hidden_layers - 1);
  // The first step fills the page cache and makes Adam's states.
  return { config, hf: llamaConfigJson(config), weights, dtype: 'bfloat16', block, warmUp: [batch()], rounds };
}

async function run(way: string, job: TrainJob, prefix: readonly string[] = []): Promise<Run> {
  const { length } = job.rounds[0][0];
  note(`${way}, 1 x ${length}`);
  const worker = await startTraining(way, job, prefix);
  const rounds: Round[] = [];
  for (let i = 0; i < job.rounds.length; i++) {
    rounds.push(await worker.round());
    const { seconds, peakResident, peakAnonymous } = rounds[i];
    note(
      `  step ${i + 1}: ${seconds.toFixed(2)} s, peak ${gigabytes(peakResident)} GB, anonymous ${gigabytes(peakAnonymous ?? NaN)} GB`,
    );
  }
  await worker.end();
  const seconds = spread(rounds.map((round) => round.seconds));
  return { way, length, ready: worker.ready, seconds, last: rounds[rounds.length - 1] };
}

async function runPlanned(way: string, job: TrainJob): Promise<Run> {
  const planned = await planJob(job);
  const measured = await run(way, job);
  const plan = comparePeak(job, planned, measured.ready, measured.last);
  note(
    `  planned ${gigabytes(plan.expected)} GB, measured ${gigabytes(plan.found)} GB, ${(100 * plan.error).toFixed(1)}%`,
  );
  return { ...measured, plan };
}

/** The streamed run under the limit; `run` is undefined, and `failure` says why, where it does not complete. */
async function runLimited(job: TrainJob): Promise<{ how: string; run?: Run; failure?: string }> {
  const { how, prefix, release } = limitMemory(limitGB * 1e9);
  note(`limit of ${limitGB} GB: ${how}`);
  try {
    return { how, run: await run(`streamed, within ${limitGB} GB`, job, prefix) };
  } catch (error) {
    note(`it did not complete: ${(error as Error).message}`);
    return { how, failure: (error as Error).message };
  } finally {
    release();
  }
}

function report(
  benchmark: Pick<BenchmarkResult, 'name' | 'title' | 'isWhole'>,
  config: LlamaConfig,
  runs: readonly Run[],
  limited: { how: string; run?: Run; failure?: string },
): void {
  const first = (way: string) => runs.find((run) => run.way === way)!;
  const [resident, streamed] = [first('resident'), first('streamed')];
  const rows = [...runs, ...(limited.run ? [limited.run] : [])].map(({ way, length, ready, seconds, last, plan }) => ({
    weights: way,
    tokens: `1 x ${length}`,
    'peak resident GB': gigabytes(last.peakResident),
    'peak anonymous GB': gigabytes(last.peakAnonymous ?? NaN),
    'peak file-backed GB': gigabytes(last.peakFileBacked ?? NaN),
    'planned peak GB': plan ? gigabytes(plan.expected) : null,
    'error %': plan ? round(100 * plan.error, 3) : null,
    'seconds/step, median': round(seconds.median),
    'min - max': range(seconds),
    'seconds to load': round(ready.loadSeconds, 3),
  }));
  writeBenchmark({
    ...benchmark,
    seed,
    figures: {
      residentPeakGB: gigabytes(resident.last.peakResident),
      streamedAnonymousGB: gigabytes(streamed.last.peakAnonymous ?? NaN),
      secondsPerStep: round(streamed.seconds.median),
      fitsLimitGB: limited.run ? limitGB : null,
    },
    rows,
    notes: [
      `${gigabytes(parameterCount(config).total)} billion parameters, random, bfloat16 at rest; BAdam with AdamW, block ${Math.min(16, config.num_hidden_layers - 1)}, every position predicted; each row a process of its own, one step of warm-up.`,
      'Resident is VmHWM; anonymous is the highest of samples of RssAnon every 20 ms. Weights are mapped files. Resident: all their pages stay, and every row of the embedding is looked up before the first step, as in a long run. Streamed: pages are dropped after each use and read again from the page cache, or the disk. GB are 1e9 bytes.',
      'Planned: by planMemory(), before the run: the resident peak, and for streamed weights the anonymous one.',
      `The limit of ${limitGB} GB was ${limited.how}; ${limited.run ? 'the run completed' : 'the run did not complete'}. secondsPerStep is the streamed median with a warm page cache.`,
    ],
    measurements: {
      runs,
      limited,
      plans: runs.map(({ way, length, plan }): PlannedRun => ({ way, length, ...plan! })),
    },
    versions: resident.ready.versions,
  });
}
