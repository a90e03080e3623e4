import { ignoreIndex, type Batch, type Example, type Random } from '@blockwise/loaders';
import type { ComputeDtype, LlamaConfig, WeightDtype } from '@blockwise/model-zoo';
import type { MemoryPeaks } from '@blockwise/tensorflow';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import type { Options } from '../options.ts';

/** A batch as JSON, for workers in both languages: labels are not shifted, -100 where nothing is learnt; rows are padded on the right. */
export interface JobBatch {
  inputIds: number[];
  labels: number[];
  positionIds: number[];
  /** For packed rows; see Batch. */
  segmentIds: number[] | null;
  batchSize: number;
  length: number;
  /** Tokens of each row that are not padding; null for packed rows. */
  rowTokens: number[] | null;
}

/** What a worker trains: it loads, warms up, and then makes one round for each line that it is sent. */
export interface TrainJob {
  config: LlamaConfig;
  /** config as config.json has it. */
  hf: object;
  /** Fresh ones, or those of a folder, mapped and, where asked for, dropped after each use. */
  weights: { seed: number } | { folder: string; streamed?: boolean };
  dtype: WeightDtype;
  /** What linear layers multiply in; default float32. */
  computeDtype?: ComputeDtype;
  /** Index of the layer that BAdam trains; null: AdamW trains everything. */
  block: number | null;
  /** Instead of that, what alpaca-llama would train with these options and the weights of a folder. */
  method?: Partial<Options>;
  /** Every row of the embedding is looked up first, as a long run does in time: of a mapped one, pages of a few would be resident by chance. */
  lookUpAll?: true;
  warmUp: JobBatch[];
  /** Peaks count from here on, not from the start of TensorFlow, which takes 0.5 GB for a moment: for models smaller than that. */
  peakFromLoading?: true;
  /** The batches of each round, a step each; round r takes entry r mod their number. */
  rounds: JobBatch[][];
}

/** What a worker says once it is warm. */
export interface Ready {
  versions: Record<string, string>;
  /** Resident bytes before the model was loaded, and those of them that are no file's. */
  baseBytes: number;
  baseAnonymous?: number;
  peakResident: number;
  loadSeconds: number;
  /** The first step's: it compiles, and makes what lasts for many steps (GaLore's projections). */
  firstSeconds?: number;
  compileSeconds?: number;
  compiledVariants?: number;
}

/** What a worker says after each round; peaks since the process began, in bytes. */
export interface Round extends MemoryPeaks {
  seconds: number;
  /** Of the round's last step, in nats. */
  loss: number;
}

/** Workers' reports stand behind this on a line of standard output; other lines are chatter. */
export const reportMark = '@bench ';

/** Rows of random tokens that are all predicted. */
export function randomBatch(vocabulary: number, batchSize: number, length: number, random: Random): JobBatch {
  const example = (): Example => {
    const inputIds = Int32Array.from({ length }, () => random.uint32() % vocabulary);
    return { inputIds, labels: inputIds };
  };
  return paddedBatch(Array.from({ length: batchSize }, example), 0);
}

/** Examples padded to the longest of them. */
export function paddedBatch(examples: readonly Example[], padId: number): JobBatch {
  const rowTokens = examples.map(({ inputIds }) => inputIds.length);
  const length = Math.max(...rowTokens);
  const pad = (values: Int32Array, filler: number) => [
    ...values,
    ...new Array<number>(length - values.length).fill(filler),
  ];
  return {
    inputIds: examples.flatMap(({ inputIds }) => pad(inputIds, padId)),
    labels: examples.flatMap(({ labels }) => pad(labels, ignoreIndex)),
    positionIds: examples.flatMap(() => Array.from({ length }, (_, t) => t)),
    segmentIds: null,
    batchSize: examples.length,
    length,
    rowTokens,
  };
}

/** A loader's batch. */
export function jobBatch({ inputIds, labels, positionIds, segmentIds, batchSize, length }: Batch): JobBatch {
  return {
    ...{ inputIds: [...inputIds], labels: [...labels], positionIds: [...positionIds], batchSize, length },
    segmentIds: segmentIds ? [...segmentIds] : null,
    rowTokens: null,
  };
}

let folder: string | undefined;
let jobs = 0;

/** A folder for what workers read, removed when this process exits. */
export function benchFolder(): string {
  if (folder === undefined) {
    const made = mkdtempSync(join(tmpdir(), 'blockwise-bench-'));
    process.once('exit', () => rmSync(made, { recursive: true, force: true }));
    folder = made;
  }
  return folder;
}

/** Puts a job where a worker can read it. */
export function writeJob(job: TrainJob): string {
  const path = join(benchFolder(), `job-${jobs++}.json`);
  writeFileSync(path, JSON.stringify(job));
  return path;
}
