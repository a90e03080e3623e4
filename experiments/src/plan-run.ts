import { planMemory, type PlannedMemory, type TrainOptions } from '@blockwise/training';
import { methods } from './methods.ts';
import type { Options } from './options.ts';

/** What is planned, and where its model is. */
export interface RunToPlan {
  options: Options;
  /** The model's folder, or a checkpoint's where the run goes on from one. */
  folder: string;
  checkpoint?: string;
  /** Tokens of the longest sequence. */
  length: number;
  /** Resident now, before the model is loaded. */
  baseBytes: number;
}

/**
 * What a run of alpaca-llama holds beside its training: records and V8's garbage, and functions compiled for samples and evaluation. Measured
 * on the embedded model, where each shows: plans of its methods are then 5% below to 9% above the peak, block's within 6%.
 */
const scriptBytes = ({ doPredict, evaluationStrategy }: Options) =>
  30e6 + (doPredict ? 15e6 : 0) + (evaluationStrategy === 'no' ? 0 : 10e6);

/** Predicts a run's memory: its own model and optimizer, rehearsed for a step on every block. */
export function planRun({ options, folder, checkpoint, length, baseBytes }: RunToPlan): Promise<PlannedMemory> {
  const method = methods[options.finetuningType];
  const everyStep = { ...options, switchBlockEvery: 1 };
  return planMemory({
    prepare: () => {
      const opened = method.open(everyStep, folder, checkpoint);
      return { model: opened.model, optimizer: method.optimizer(everyStep, opened, 1).optimizer };
    },
    options: stepOptions(options),
    ...{ batchSize: options.perDeviceTrainBatchSize, length, packing: options.packing },
    baseBytes: baseBytes + scriptBytes(options),
  });
}

/** Options that decide what a step keeps. */
export function stepOptions(
  options: Options,
): Pick<TrainOptions, 'gradientAccumulationSteps' | 'maxGradNorm' | 'clipGradValue' | 'keptBytes'> {
  const { gradientAccumulationSteps, maxGradNorm, clipGradValue, gradientCheckpointing } = options;
  return { gradientAccumulationSteps, maxGradNorm, clipGradValue, ...keptBytes[gradientCheckpointing] };
}

/** transformers' gradient_checkpointing in bytes that may be kept. */
const keptBytes = { auto: {}, true: { keptBytes: 0 }, false: { keptBytes: Infinity } };
