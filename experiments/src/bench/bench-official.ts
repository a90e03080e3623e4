/**
 * BAdam here against the official package in PyTorch, and against PyTorch at its fastest: seconds of one training step and peak resident
 * memory, the sides alternating, each in a process of its own. `npx nx run experiments:bench-official` (half an hour, most of it the official bfloat16 side where there are
 * no instructions for it; 25 GB of memory), or `... -- m110`, `b1_1` or `endToEnd` for a look at a part.
 */
import {
  createBatches,
  createRandom,
  loadTokenizer,
  shuffle,
  tokeniseDataset,
  type BatchSource,
  type Example,
  type Random,
} from '@blockwise/loaders';
import { llama_110m, llama_1_1b, llamaConfigJson, type LlamaConfig } from '@blockwise/model-zoo';
import { hasBfloat16Products } from '@blockwise/tensorflow';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { sharedData } from '../embedded.ts';
import { alternate, speedup, type Side } from './alternate.ts';
import { chooseParts } from './choose-parts.ts';
import { benchPython } from './python-environment.ts';
import { spread } from './spread.ts';
import { tiny, tinyConfig } from './tiny.ts';
import { jobBatch, paddedBatch, randomBatch, writeJob, type JobBatch, type TrainJob } from './train-job.ts';
import { cudaPages, environments, fromCheckpoint, startPeer, startTraining, type Worker } from './worker.ts';
import { gigabytes, note, range, round, writeBenchmark } from './write-benchmark.ts';

const seed = 1;
const counted = 5;
const warmUp = 1;
/** Whether the official side's bfloat16 products are fast here, and ours then too. */
const hasBfloat16 = hasBfloat16Products();

type Job = Pick<TrainJob, 'warmUp' | 'rounds'>;
type Row = Record<string, string | number | null>;

/** The job of every side, from a checkpoint in bfloat16, which `fastest` makes float32 whatever is said here. */
function trainJob(config: LlamaConfig, block: number, { warmUp, rounds }: Job): TrainJob {
  const hf = llamaConfigJson(config);
  return fromCheckpoint({ config, hf, weights: { seed }, dtype: 'bfloat16', block, warmUp, rounds });
}

/** As badam's readme says (bfloat16); the same on a float32 model; without recomputation. See official_worker.py. */
type PeerSide = 'official' | 'float32' | 'fastest';

function startPython(python: string, side: PeerSide, job: TrainJob, largePages = false): Promise<Worker> {
  const script = fileURLToPath(new URL('official_worker.py', import.meta.url));
  const name = largePages ? `${side}, large pages` : side;
  return startPeer(name, [python, script, writeJob(job), side], { largePages });
}

/** One shape, a step a round. */
async function compareShape(python: string, name: string, config: LlamaConfig, rows: number, length: number) {
  note(`${name}: ${rows} x ${length} tokens`);
  const random = createRandom(seed, rows * length);
  const batch = () => randomBatch(config.vocab_size, rows, length, random);
  const batches = Array.from({ length: warmUp + counted }, batch);
  const block = Math.min(6, config.num_hidden_layers - 1);
  const rounds = batches.slice(warmUp).map((batch) => [batch]);
  const job = trainJob(config, block, { warmUp: batches.slice(0, warmUp), rounds });
  const workers = [
    await startTraining('blockwise', job),
    await startPython(python, 'fastest', job),
    await startPython(python, 'float32', job),
  ];
  if (hasBfloat16) {
    workers.push(await startTraining('blockwise, bfloat16 products', { ...job, computeDtype: 'bfloat16' }));
    workers.push(await startPython(python, 'official', job));
    // For comparison. (Six processes of the larger shape would not fit into 25 GB.)
    if (name === 'm110') workers.push(await startPython(python, 'official', job, true));
  }
  const sides = await alternate(workers, counted);
  if (!hasBfloat16) sides.push(await slowly(() => startPython(python, 'official', { ...job, warmUp: [] })));
  const [ours, fastest] = sides;
  const official = sides.find((side) => side.name.startsWith('official'))!;
  // Against bfloat16 arithmetic ours in bfloat16 too, where the machine has it.
  const oursAsOfficial = hasBfloat16 ? sides[3] : ours;
  const rate = (side: Side) => round((rows * length) / side.seconds.median);
  const table = sides.map((side) => {
    const compared = side.name.startsWith('official') ? oursAsOfficial : ours;
    return rowOf(`${name}, ${rows} x ${length}`, side, compared, rate(side), 'tokens/s');
  });
  const figures = {
    speedupOverOfficial: round(speedup(oursAsOfficial, official).ofMedians),
    memoryOverOfficial: round(oursAsOfficial.peakResident / official.peakResident),
    speedupOverFastest: round(speedup(ours, fastest).ofMedians),
    memoryOverFastest: round(ours.peakResident / fastest.peakResident),
  };
  return { sides, table, figures };
}

/**
 * The official side by itself, after the others: without bfloat16 instructions it takes minutes for a step on one core. It makes `counted`
 * rounds, or one where that takes over two minutes. Where none ends within BLOCKWISE_BENCH_PATIENCE seconds (default 900), those seconds and
 * the memory held by then stand for it: its ratios are bounds, ours being at least so much faster and holding at most that share.
 */
async function slowly(start: () => Promise<Worker>): Promise<Side> {
  const seconds = Number(process.env.BLOCKWISE_BENCH_PATIENCE ?? 900);
  const worker = await start();
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<undefined>((resolve) => (timer = setTimeout(() => resolve(undefined), seconds * 1000)));
  const side = await Promise.race([alternate([worker], counted).then(([side]) => side), late]).finally(() =>
    clearTimeout(timer),
  );
  if (side) return side;
  note(`official: no step ended within ${seconds} s`);
  const peakResident = worker.peakResident();
  worker.kill();
  const { versions, peakResident: peakAfterWarmUp } = worker.ready;
  const name = 'official, a step not ended';
  return { name, seconds: spread([seconds]), rounds: [seconds], loss: NaN, peakAfterWarmUp, peakResident, versions };
}

function rowOf(task: string, side: Side, ours: Side, rate: number, unit: string): Row {
  const gain = speedup(ours, side);
  return {
    task,
    side: side.name,
    'seconds, median': round(side.seconds.median),
    'min - max': range(side.seconds),
    rate: `${rate} ${unit}`,
    'Blockwise is faster by': round(gain.ofMedians),
    'median of paired ratios': round(gain.paired.median),
    'peak GB': gigabytes(side.peakResident),
    'peak GB, warm-up': gigabytes(side.peakAfterWarmUp),
    "Blockwise's peak over it": round(ours.peakResident / side.peakResident),
  };
}

/** Examples in a round, and in a step. */
const roundExamples = tiny ? 16 : 32;
const batchSize = 8;
const cutoffLen = tiny ? 64 : 1024;

/** Alpaca-GPT4's real lengths; undefined without the data. Rounds are epochs over the same examples, drawn anew for each side. */
async function compareEndToEnd(python: string, config: LlamaConfig) {
  const file = join(sharedData, 'alpaca_gpt4/alpaca_gpt4_data_en_999.json');
  const tokenizerFolder = join(sharedData, 'models/llama2_tokenizer');
  if (![file, tokenizerFolder].every(existsSync)) {
    note(`end to end: left out, ${file} or ${tokenizerFolder} is not there (BLOCKWISE_DATA names another data folder)`);
    return undefined;
  }
  const tokenizer = loadTokenizer(tokenizerFolder);
  const padId = tokenizer.pad?.id ?? 0;
  const set = await tokeniseDataset({ files: [file], tokenizer, template: 'llama2', cutoffLen });
  const examples = sample(set.examples, roundExamples, createRandom(seed, 1)).map((example) =>
    withinVocabulary(example, config),
  );
  const shared = { padId, cutoffLen, shuffle: true, seed };
  const grouped = createBatches(examples, { ...shared, batchSize, groupByLength: true });
  const perRow =
    roundExamples / createBatches(examples, { ...shared, batchSize: 1, packing: 'packed' }).batchesPerEpoch;
  const packedRows = Math.max(1, Math.round(batchSize / perRow));
  const packed = createBatches(examples, { ...shared, batchSize: packedRows, packing: 'packed' });

  const block = Math.min(6, config.num_hidden_layers - 1);
  // Both sides in the arithmetic that is fast here.
  const computeDtype = hasBfloat16 ? 'bfloat16' : 'float32';
  const peers = trainJob(config, block, randomOrder(examples, padId));
  const ours = (source: BatchSource) => ({ ...peers, ...epochs(source), computeDtype }) as const;
  const peer = hasBfloat16 ? 'official' : 'float32';
  const workers = [
    await startPython(python, peer, peers),
    await startTraining('blockwise, group_by_length', ours(grouped)),
    await startTraining('blockwise, packing', ours(packed)),
  ];
  const sides = await alternate(workers, counted);
  const best = sides[1].seconds.median < sides[2].seconds.median ? sides[1] : sides[2];
  const rate = (side: Side) => round(roundExamples / side.seconds.median);
  const task = `end to end, ${roundExamples} examples, ${batchSize} a step`;
  const table = sides.map((side) => rowOf(task, side, best, rate(side), 'examples/s'));
  return { sides, table, figures: round(speedup(best, sides[0]).ofMedians) };
}

function sample<T>(items: readonly T[], count: number, random: Random): T[] {
  const order = shuffle(Int32Array.from(items.keys()), random);
  return Array.from(order.subarray(0, count), (index) => items[index]);
}

/** Real lengths with ids that the (tiny) model has. */
function withinVocabulary({ inputIds, labels }: Example, { vocab_size: V }: LlamaConfig): Example {
  return { inputIds: inputIds.map((id) => id % V), labels: labels.map((id) => (id < 0 ? id : id % V)) };
}

/** Epochs of a loader; warm-up meets each shape once, so that no round compiles. */
function epochs(source: BatchSource): Job {
  const rounds = Array.from({ length: counted }, (_, epoch) => [...source.epochBatches(epoch)].map(jobBatch));
  const shapes = new Map(rounds.flat().map((batch) => [`${batch.batchSize} x ${batch.length}`, batch]));
  return { warmUp: [...shapes.values()], rounds };
}

/** The official way: a new random order each round, padded to the longest of each batch. Warm-up: the longest. */
function randomOrder(examples: readonly Example[], padId: number): Job {
  const rounds = Array.from({ length: counted }, (_, epoch) => {
    const order = sample(examples, examples.length, createRandom(seed, 1000 + epoch));
    const batches: JobBatch[] = [];
    for (let at = 0; at < order.length; at += batchSize)
      batches.push(paddedBatch(order.slice(at, at + batchSize), padId));
    return batches;
  });
  const longest = rounds.flat().sort((a, b) => b.length - a.length);
  return { warmUp: longest.slice(0, warmUp), rounds };
}

const { parts: chosen, isWhole } = chooseParts(['m110', 'b1_1', 'endToEnd']);
const python = benchPython(note);
const [m110Config, b1_1Config] = tiny ? [tinyConfig, tinyConfig] : [llama_110m, llama_1_1b];
const length = tiny ? 32 : 256;
const m110 = chosen.includes('m110') ? await compareShape(python, 'm110', m110Config, 4, length) : undefined;
const b1_1 = chosen.includes('b1_1') ? await compareShape(python, 'b1_1', b1_1Config, 2, length) : undefined;
const endToEnd = chosen.includes('endToEnd') ? await compareEndToEnd(python, m110Config) : undefined;
const parts = [m110, b1_1, endToEnd].filter((one) => one !== undefined);

writeBenchmark({
  isWhole,
  name: 'bench-official',
  title: 'BAdam: Blockwise against the official package and against PyTorch at its fastest',
  seed,
  figures: {
    m110: m110?.figures ?? null,
    b1_1: b1_1?.figures ?? null,
    endToEndSpeedup: endToEnd?.figures ?? null,
  },
  rows: parts.flatMap(({ table }) => table),
  notes: [
    `${counted} counted rounds after warm-up (a step; end to end: each shape once), the sides taking turns on the same batches; AdamW, ` +
      'active block 6, every position predicted, random weights and tokens, default threads. All sides start from one bfloat16 checkpoint ' +
      '(transformers by from_pretrained()).',
    'official: badam.BlockOptimizer on a bfloat16 model with (non-reentrant) gradient checkpointing, as its readme says. ' +
      (hasBfloat16
        ? 'This CPU has bfloat16 instructions, which both it and "blockwise, bfloat16 products" (--compute_dtype bfloat16) use; the figures over official compare these two. '
        : 'This CPU has no bfloat16 instructions, so it multiplies on one core: by itself and without warm-up, and one round only where that takes over two minutes; where no step ended, the seconds waited and the memory held by then stand: bounds. ') +
      'float32: the ' +
      'same on a float32 model. fastest: float32 without checkpointing. All with scaled_dot_product_attention. blockwise: bfloat16 at rest, ' +
      'float32 arithmetic.',
    environments,
    `Peaks are VmHWM over the whole process, loading and warm-up included; compile time is in the JSON and in no round. ${cudaPages}`,
    endToEnd
      ? `End to end: one epoch a round over the same ${roundExamples} examples of Alpaca-GPT4 (cutoff ${cutoffLen}), answers predicted, m110, all sides in ${hasBfloat16 ? 'bfloat16' : 'float32'} products. The official package: ` +
        `random order, padded to the longest of each ${batchSize}. packing: rows of ${cutoffLen}, as many a step as hold ${batchSize} examples. The faster of the two ways counts.`
      : 'End to end: not measured in this run (its data are not on this machine).',
  ],
  measurements: { m110: m110?.sides ?? null, b1_1: b1_1?.sides ?? null, endToEnd: endToEnd?.sides ?? null },
  versions: Object.assign({}, ...parts.flatMap(({ sides }) => sides.map(({ versions }) => versions))),
});
