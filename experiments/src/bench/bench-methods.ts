/**
 * LoRA, LOMO, AdaLomo, GaLore and BlockOptimizerRatio here against their official packages in PyTorch: seconds of one training step and
 * peak resident memory, the sides alternating, each in a process of its own. `npx nx run experiments:bench-methods` (half an hour).
 * Both sides in the arithmetic that is fast on this machine; where that is bfloat16, in float32 too.
 */
import { createRandom } from '@blockwise/loaders';
import type { ComputeDtype } from '@blockwise/model-zoo';
import { hasBfloat16Products } from '@blockwise/tensorflow';
import { fileURLToPath } from 'node:url';
import type { Options } from '../options.ts';
import { alternate, speedup, type Side } from './alternate.ts';
import { chooseParts } from './choose-parts.ts';
import { batchShape, counted, freshModel, methodJob, perStep, stepsPerRound } from './method-job.ts';
import { benchPython } from './python-environment.ts';
import { tiny } from './tiny.ts';
import { writeJob } from './train-job.ts';
import { cudaPages, environments, startPeer, startTraining } from './worker.ts';
import { gigabytes, note, range, round, writeBenchmark } from './write-benchmark.ts';

const seed = 1;

/** Each as its package's readme uses it. */
const settings: Record<string, Partial<Options> & Pick<Options, 'finetuningType'>> = {
  lora: { finetuningType: 'lora', loraRank: 16, loraAlpha: 32, loraTarget: ['q_proj', 'v_proj'] },
  lomo: { finetuningType: 'lomo' },
  adalomo: { finetuningType: 'adalomo' },
  galore: { finetuningType: 'galore', galoreRank: tiny ? 8 : 128, galoreUpdateInterval: 200, galoreScale: 0.25 },
  ratio: { finetuningType: 'sparse', updateRatio: 0.1, maskMode: 'adjacent', switchBlockEvery: 100 },
};
const official: Record<string, string> = {
  lora: 'peft',
  lomo: 'lomo-optim',
  adalomo: 'lomo-optim',
  galore: 'galore-torch',
  ratio: 'badam',
};

/** What both sides multiply in: bfloat16, as the packages' own scripts do, only where a CPU has instructions for it. */
const arithmetics: ComputeDtype[] = hasBfloat16Products() ? ['bfloat16', 'float32'] : ['float32'];

interface Comparison {
  name: string;
  arithmetic: ComputeDtype;
  sides: Side[];
  /** Seconds of each side's first step. */
  first: (number | undefined)[];
}

async function compare(name: string, arithmetic: ComputeDtype, python: string, folder: string): Promise<Comparison> {
  note(`${name}, ${arithmetic}`);
  const shared = { learningRate: 1e-5, weightDecay: 0, gradientCheckpointing: 'false' as const };
  // The packages' bfloat16 models have no float32 masters: with GaLore neither do ours then. (Of the others only AdamW's few have.)
  const masters = name === 'galore' && arithmetic === 'bfloat16' ? { pureBf16: true } : {};
  const method = { ...shared, computeDtype: arithmetic, ...settings[name], ...masters };
  const job = methodJob(method, folder, createRandom(seed));
  const script = fileURLToPath(new URL('method_worker.py', import.meta.url));
  const peer = (side: string, way: 'checkpointing' | 'fastest') =>
    startPeer(side, [python, script, writeJob(job), method.finetuningType, way, arithmetic]);
  const workers = [
    await peer(official[name], 'checkpointing'),
    await startTraining('blockwise', job),
    await peer(`${official[name]}, nothing recomputed`, 'fastest'),
  ];
  const first = workers.map(({ ready }) => ready.firstSeconds);
  return { name, arithmetic, first, sides: (await alternate(workers, counted)).map(perStep) };
}

/** A step's share of what GaLore does anew every so many steps: what the first step took longer, but for our compilation of the model, once a run. */
function renewal({ name, sides, first }: Comparison, side: number): number {
  const every = settings[name].galoreUpdateInterval;
  const { seconds, compileSeconds = 0 } = sides[side];
  return every ? Math.max(0, first[side]! - compileSeconds - seconds.median) / every : 0;
}

/** How much faster ours (side 1) is than a side, and our peak as a share of its. */
function gain(comparison: Comparison, side: number) {
  const { sides } = comparison;
  const seconds = (i: number) => sides[i].seconds.median + renewal(comparison, i);
  return {
    speedup: round(seconds(side) / seconds(1)),
    memory: round(sides[1].peakResident / sides[side].peakResident),
  };
}

/** Against the official code as the paper compares methods, and against its fastest. */
function figuresOf(comparison: Comparison) {
  const { speedup: speedupOverFastest, memory: memoryOverFastest } = gain(comparison, 2);
  return { ...gain(comparison, 0), speedupOverFastest, memoryOverFastest };
}

function rowsOf(comparison: Comparison) {
  const ours = comparison.sides[1];
  return comparison.sides.map((side, i) => {
    const { median } = side.seconds;
    return {
      method: comparison.name,
      arithmetic: comparison.arithmetic,
      side: side.name,
      'seconds/step, median': round(median),
      'min - max': range(side.seconds),
      'and of renewal': round(renewal(comparison, i)),
      'tokens/s': round(batchShape.tokens / (median + renewal(comparison, i))),
      'Blockwise is faster by': i === 1 ? null : gain(comparison, i).speedup,
      'median of paired ratios': i === 1 ? null : round(speedup(ours, side).paired.median),
      'peak GB': gigabytes(side.peakResident),
      "Blockwise's peak over it": i === 1 ? null : gain(comparison, i).memory,
      loss: round(side.loss),
    };
  });
}

const { parts: chosen, isWhole } = chooseParts(Object.keys(settings));
const python = benchPython(note);
const folder = await freshModel(seed);
const comparisons: Comparison[] = [];
for (const name of chosen)
  for (const arithmetic of arithmetics) comparisons.push(await compare(name, arithmetic, python, folder));
const of = (name: string) => {
  const [fast, float32] = comparisons.filter((one) => one.name === name).map(figuresOf);
  return float32 ? { ...fast, float32 } : fast;
};
writeBenchmark({
  isWhole,
  name: 'bench-methods',
  folder: 'methods',
  title: 'LoRA, LOMO, AdaLomo, GaLore and Ratio: Blockwise against the official packages',
  seed,
  figures: Object.fromEntries(chosen.map((name) => [name, of(name)])),
  rows: comparisons.flatMap(rowsOf),
  notes: [
    `Llama of 110 million parameters, ${stepsPerRound} steps of ${batchShape.rows} x ${batchShape.length} tokens a round, one after the other, every position predicted, the same ` +
      `weights and batches on both sides; ${counted} counted rounds after a step of warm-up, the sides taking turns; no clipping, default threads.`,
    "Official: scaled_dot_product_attention; with gradient checkpointing, as BAdam's paper compares all methods (appendix B), and with " +
      'nothing recomputed. Blockwise: bfloat16 at rest, products of linear layers kept (--gradient_checkpointing false). bfloat16: the ' +
      "official model is bfloat16, as in the packages' own scripts, and ours runs with --compute_dtype bfloat16; float32: neither. The JSON " +
      'figures are those of the arithmetic that is fast here, bfloat16 on a CPU with instructions for it, and beside them those in float32.',
    'LoRA: rank 16 on q_proj and v_proj, AdamW. GaLore: rank 128, new projections every 200 steps, whose share of a step (what the first ' +
      'step took longer than the median, but for our compilation of the model, seconds of a whole run) counts in the rates. Ratio: 0.1, adjacent, layers only.',
    `In bfloat16 GaLore runs with --pure_bf16, as the official model has no float32 masters. ${environments}`,
    `Peaks are VmHWM over the whole process, loading and warm-up included. ${cudaPages}`,
  ],
  measurements: comparisons,
  versions: { ...comparisons[0].sides[1].versions, ...comparisons[0].sides[0].versions },
});
