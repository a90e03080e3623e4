/**
 * Our side of a benchmark, in a process of its own: `train-worker.ts <job.json>`. One step is what training does: the walk's gradients go
 * to the optimizer the moment they exist. See train-job.ts for what comes in and goes out.
 */
import type { Llama } from '@blockwise/model-zoo';
import type { Optimizer } from '@blockwise/optimizers';
import {
  describeEngine,
  gatherRows,
  initTensorFlow,
  MemoryMeter,
  type RawTensor,
  readMemory,
  resetPeakMemory,
  tf,
} from '@blockwise/tensorflow';
import { createMicroBatch, disposeMicroBatch, StageWalk, type Gradient } from '@blockwise/training';
import { readFileSync } from 'node:fs';
import process from 'node:process';
import { createInterface } from 'node:readline';
import { methods } from '../methods.ts';
import { resolveOptions, type Options } from '../options.ts';
import { stepOptions } from '../plan-run.ts';
import { openJobModel } from './open-job.ts';
import { reportMark, type JobBatch, type Ready, type Round, type TrainJob } from './train-job.ts';

const report = (value: Ready | Round) => process.stdout.write(`${reportMark}${JSON.stringify(value)}\n`);

interface Opened {
  model: Llama;
  optimizer: Optimizer;
  keptBytes?: number;
}

/** The model and the optimizer of one of alpaca-llama's methods. */
function openMethod(given: Partial<Options>, folder: string): Opened {
  const options = resolveOptions({ modelNameOrPath: folder, ...given });
  const method = methods[options.finetuningType];
  const opened = method.open(options, folder);
  const { optimizer } = method.optimizer(options, opened, 1);
  return { model: opened.model, optimizer, keptBytes: stepOptions(options).keptBytes };
}

function openJob(job: TrainJob): Opened {
  if (job.method && 'folder' in job.weights) return openMethod(job.method, job.weights.folder);
  return openJobModel(job);
}

async function trainStep(model: Llama, walk: StageWalk, optimizer: Optimizer, batch: JobBatch): Promise<number> {
  const micro = createMicroBatch(model, {
    ...{ batchSize: batch.batchSize, length: batch.length },
    inputIds: Int32Array.from(batch.inputIds),
    labels: Int32Array.from(batch.labels),
    positionIds: Int32Array.from(batch.positionIds),
    segmentIds: batch.segmentIds ? Int32Array.from(batch.segmentIds) : undefined,
  });
  optimizer.beginStep();
  const apply = ([name, gradient]: Gradient) => {
    optimizer.update(name, gradient);
    gradient.dispose();
  };
  const loss = await walk.gradients([micro], optimizer.trainable, apply, optimizer);
  optimizer.endStep();
  disposeMicroBatch(micro);
  return loss;
}

/** Looks up each row of the embedding, some at a time. */
function lookUpAll({ parameters }: Llama): void {
  const table = parameters.get('model.embed_tokens.weight')!;
  const values = table.acquire() as RawTensor; // mapped, as weights of a folder are
  const some = 1024;
  for (let from = 0; from < table.shape[0]; from += some)
    tf.tidy(() => void gatherRows(values, tf.range(from, Math.min(from + some, table.shape[0]), 1, 'int32')));
  table.release(values);
}

const job = JSON.parse(readFileSync(process.argv[2], 'utf8')) as TrainJob;
await initTensorFlow();
if (job.peakFromLoading) resetPeakMemory();
const meter = new MemoryMeter();
const { resident: baseBytes, anonymous: baseAnonymous = NaN } = readMemory();
const begin = performance.now();
const { model, optimizer, keptBytes } = openJob(job);
const loadSeconds = (performance.now() - begin) / 1000;
if (job.lookUpAll) lookUpAll(model);
const walk = new StageWalk(model, { keptBytes });
const step = (batch: JobBatch) => trainStep(model, walk, optimizer, batch);

const firstBegin = performance.now();
await step(job.warmUp[0]);
const firstSeconds = (performance.now() - firstBegin) / 1000;
for (const batch of job.warmUp.slice(1)) await step(batch);
report({
  versions: { node: process.version, tensorflow: describeEngine().tensorflow },
  ...{ baseBytes, baseAnonymous, loadSeconds, firstSeconds, peakResident: meter.sample().peakResident },
  ...{ compileSeconds: walk.compilation.seconds, compiledVariants: walk.compilation.variants },
});
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
for (let round = 0; !(await lines.next()).done; round++) {
  const begin = performance.now();
  let loss = 0;
  for (const batch of job.rounds[round % job.rounds.length]) loss = await step(batch);
  report({ seconds: (performance.now() - begin) / 1000, loss, ...meter.sample() });
}
