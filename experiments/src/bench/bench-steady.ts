/**
 * Whether a long run holds steady: 2,000 steps of BAdam on the embedded model, a block switch every 25, batches of six lengths.
 * Compares the last 100 steps with steps 101 to 200. `npx nx run experiments:bench-steady`
 */
import { createBatches, createRandom, type Example } from '@blockwise/loaders';
import { openLlama } from '@blockwise/model-zoo';
import { adamW, BlockOptimizer } from '@blockwise/optimizers';
import { describeEngine, initTensorFlow, liveTensors, readMemory } from '@blockwise/tensorflow';
import { train } from '@blockwise/training';
import { embedded } from '../embedded.ts';
import { spread } from './spread.ts';
import { tiny } from './tiny.ts';
import { note, round, writeBenchmark } from './write-benchmark.ts';

const seed = 1;
const totalSteps = tiny ? 40 : 2000;
/** Steps that are compared at either end, the first ones left out. */
const span = tiny ? 10 : 100;
const switchBlockEvery = tiny ? 5 : 25;
const batchSize = 2;

await initTensorFlow();
const { model } = openLlama(embedded.model, { dtype: 'bfloat16' });
const random = createRandom(seed);
const examples = Array.from({ length: 600 }, (): Example => {
  const inputIds = Int32Array.from({ length: 8 + random.below(57) }, () => random.below(model.config.vocab_size));
  return { inputIds, labels: inputIds };
});
const optimizer = new BlockOptimizer(adamW({ learningRate: 1e-5 }), [...model.parameters.values()], {
  switchBlockEvery,
  seed,
});
const batches = createBatches(examples, { batchSize, padId: 0, shuffle: true, groupByLength: true, seed });

const resident: number[] = [];
const tensors: number[] = [];
const { steps, compiledVariants, timing } = await train({
  ...{ model, optimizer, batches },
  options: {
    ...{ totalSteps, gradientAccumulationSteps: 1, learningRate: 1e-5, lrSchedulerType: 'constant', warmupSteps: 0 },
    ...{ maxGradNorm: 1, evalSteps: 0, saveSteps: 0 },
  },
  onStep: ({ step }) => {
    resident.push(readMemory().resident);
    tensors.push(liveTensors());
    if (step % span === 0) note(`step ${step}: ${(resident.at(-1)! / 1e6).toFixed(0)} MB`);
  },
});

/** Steps span + 1 to 2 span, and the last span of them. Both hold whole turns of blocks. */
const [early, late] = [span, totalSteps - span].map((from) => {
  const seconds = spread(steps.slice(from, from + span).map((step) => step.seconds));
  const bytes = spread(resident.slice(from, from + span));
  return { from: from + 1, to: from + span, seconds, bytes, tensors: Math.max(...tensors.slice(from, from + span)) };
});

writeBenchmark({
  name: 'bench-steady',
  title: `A long run: ${totalSteps} steps`,
  seed,
  figures: {
    memoryLastOverFirst: round(late.bytes.max / early.bytes.max),
    timeLastOverFirst: round(late.seconds.median / early.seconds.median),
    compiledVariants,
  },
  rows: [early, late].map(({ from, to, seconds, bytes, tensors }) => ({
    steps: `${from} - ${to}`,
    'resident MB, most': round(bytes.max / 1e6),
    'tensors alive after a step, most': tensors,
    'ms/step, median': round(1000 * seconds.median),
    'min - max': `${round(1000 * seconds.min, 3)} - ${round(1000 * seconds.max, 3)}`,
  })),
  notes: [
    `The embedded model, bfloat16 at rest, BAdam with AdamW, ${optimizer.blocks.length} blocks of ${switchBlockEvery} steps in random order, gradients clipped; batches of ${batchSize} sequences of random tokens in ${batches.lengths.length} lengths.`,
    `Compiled functions: ${compiledVariants} variants, ${round(timing.compile)} s in all. Resident is VmRSS after each step.`,
  ],
  measurements: { resident, tensors, seconds: steps.map((step) => step.seconds) },
  versions: { tensorflow: describeEngine().tensorflow },
});
optimizer.dispose();
model.dispose();
