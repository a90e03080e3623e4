/**
 * Every method of alpaca-llama at the 110M shape: tokens/s and peak resident memory, each in a process of its own.
 * `npx nx run experiments:bench-all-methods` (ten minutes).
 */
import { createRandom } from '@blockwise/loaders';
import type { Options } from '../options.ts';
import { alternate, type Side } from './alternate.ts';
import { chooseParts } from './choose-parts.ts';
import { batchShape, counted, freshModel, methodJob, perStep, stepsPerRound } from './method-job.ts';
import { tiny } from './tiny.ts';
import { startTraining } from './worker.ts';
import { gigabytes, range, round, writeBenchmark } from './write-benchmark.ts';

const seed = 1;
const rank = tiny ? 8 : 128;

/** A method's name in the table, and its options beside the defaults. */
const settings: Record<string, Partial<Options>> = {
  block: { switchMode: 'fixed', startBlock: tiny ? 1 : 6 },
  full: {},
  'full, pure_bf16': { finetuningType: 'full', pureBf16: true },
  'full, adamw_8bit': { finetuningType: 'full', optim: 'adamw_8bit' },
  'full, adam_mini': { finetuningType: 'full', optim: 'adam_mini' },
  'full, sgd': { finetuningType: 'full', optim: 'sgd' },
  freeze: {},
  lora: {},
  qlora: {},
  sparse: { switchBlockEvery: 100 },
  lomo: {},
  adalomo: {},
  galore: { galoreRank: rank, galoreScale: 0.25 },
  'galore, pure_bf16': { finetuningType: 'galore', pureBf16: true, galoreRank: rank, galoreScale: 0.25 },
  bitnet: {},
};

const { parts: chosen, isWhole } = chooseParts(Object.keys(settings));
const folder = await freshModel(seed);
const sides: Side[] = [];
for (const name of chosen) {
  const given = { finetuningType: name as Options['finetuningType'], ...settings[name] };
  const job = methodJob({ learningRate: 1e-5, ...given }, folder, createRandom(seed));
  sides.push(...(await alternate([await startTraining(name, job)], counted)).map(perStep));
}
const rows = sides.map(({ name, seconds, peakResident, loss }) => ({
  method: name,
  'tokens/s': round(batchShape.tokens / seconds.median),
  'seconds/step, median': round(seconds.median),
  'min - max': range(seconds),
  'peak GB': gigabytes(peakResident),
  loss: round(loss),
}));
writeBenchmark({
  isWhole,
  name: 'bench-all-methods',
  folder: 'methods',
  title: 'Every method at the 110M shape: tokens/s and peak memory',
  seed,
  figures: Object.fromEntries(
    sides.map(({ name, seconds, peakResident }) => [
      name,
      { tokensPerSecond: round(batchShape.tokens / seconds.median), peakGB: gigabytes(peakResident) },
    ]),
  ),
  rows,
  notes: [
    `Llama of 110 million parameters, bfloat16 at rest, ${stepsPerRound} steps of ${batchShape.rows} x ${batchShape.length} tokens a round, every position ` +
      `predicted; ${counted} counted rounds after one step of warm-up; no clipping, default threads. The defaults of alpaca-llama, but for: ` +
      "block is layer 6; GaLore's rank is 128, and its rate leaves out the projections, which are renewed every 200 steps.",
    'Peaks are VmHWM of a process of its own, loading and warm-up included. The loss is that of the last step, on random tokens: a check, no result.',
  ],
  measurements: sides,
  versions: sides[0].versions,
});
