import { UserError } from '@blockwise/errors';
import type { BatchSource, BatchState } from '@blockwise/loaders';
import type { StagedModel } from '@blockwise/model-zoo';
import type { DynamicLossScaler, Optimizer, OptimizerState, Projection } from '@blockwise/optimizers';
import { allFinite, byteLengthOf, cast, tf, totalBytes, type AnyTensor } from '@blockwise/tensorflow';
import { clipCoefficient, clipGradient, sumOfSquares } from './gradient-clipping.ts';
import { createMicroBatch, disposeMicroBatch, type MicroBatch } from './micro-batch.ts';
import { learningRateFactor, type SchedulerType } from './schedulers.ts';
import type { Gradient } from './open-gradients.ts';
import { StageWalk } from './stage-walk.ts';

/** How to train; names and meanings are those of transformers' TrainingArguments. */
export interface TrainOptions {
  /** Optimizer steps in all, those of an interrupted run included. */
  totalSteps: number;
  /** Batches whose gradients make one step; an epoch's last step may have fewer. */
  gradientAccumulationSteps: number;
  /** The peak, per step. */
  learningRate: number;
  lrSchedulerType: SchedulerType;
  warmupSteps: number;
  /**
   * Gradients are scaled down to this norm; 0: never, and each gradient is applied and freed as it appears. A fused optimizer (LOMO) keeps
   * no gradient for it: backward runs twice, for the norm and for the updates.
   */
  maxGradNorm: number;
  /** Elements of gradients are limited to [-clipGradValue, clipGradValue], before the norm's scaling (lomo-optim's clip_grad_value); 0 (default): not. */
  clipGradValue?: number;
  /** As StageWalk's option: 0 recomputes all that backward needs, Infinity keeps all products of linear layers. */
  keptBytes?: number;
  /** Steps between evaluations; 0: only before the first step and after the last, where there is data for it. */
  evalSteps: number;
  /** Steps between checkpoints; 0: none. */
  saveSteps: number;
}

/** One optimizer step. */
export interface StepRecord {
  /** From 1. */
  readonly step: number;
  /** Passes over the data so far. */
  readonly epoch: number;
  /** Mean cross-entropy over the step's labels, in nats, before the update. */
  readonly loss: number;
  readonly learningRate: number;
  /** Of all gradients, before clipping; null where it is not computed, and where the step was skipped. */
  readonly gradNorm: number | null;
  /** Set where float16 gradients overflowed: nothing was updated, and the loss scale was lowered. */
  readonly skipped?: true;
  /** Index of the trained block; null where all parameters are trained. */
  readonly block: number | null;
  /** Tokens that are not padding. */
  readonly tokens: number;
  readonly examples: number;
  readonly seconds: number;
}

/** Loss over held-out data, in nats, after a step. */
export interface ValidationRecord {
  readonly step: number;
  readonly loss: number;
}

/** All that a resumed run needs beside the weights at rest: whatever is missing from this literal is lost at an interruption. */
export interface TrainState {
  step: number;
  data: BatchState;
  optimizer: OptimizerState;
  steps: StepRecord[];
  validation: ValidationRecord[];
}

/** The parts of a training run. */
export interface TrainParts {
  model: StagedModel;
  optimizer: Optimizer;
  batches: BatchSource;
  validation?: BatchSource;
  options: TrainOptions;
  /** Where to go on; the model holds the weights of that moment. */
  resume?: TrainState;
  /** Stops after the step in hand. */
  signal?: AbortSignal;
  onStep?: (record: StepRecord) => void;
  onValidation?: (record: ValidationRecord) => void;
  /** Called every saveSteps and when interrupted. */
  save?: (state: TrainState) => Promise<void>;
}

/** What a run did, and what it held at most. */
export interface TrainResult {
  readonly steps: readonly StepRecord[];
  readonly validation: readonly ValidationRecord[];
  /** Seconds in each part of the steps of this process. */
  readonly timing: { forward: number; backward: number; update: number; evaluation: number; compile: number };
  /** Variants of compiled functions alive at the end. */
  readonly compiledVariants: number;
  /** The most bytes that gradients took together once they were complete: the largest one, or, where they wait for their norm, all. */
  readonly gradientBytes: number;
  /** The most bytes that weights, float32 masters of active ones in their place, and optimizer states took: before endStep() drops those of a finished block. */
  readonly parameterBytes: number;
  readonly stateBytes: number;
  /** The most bytes that stage inputs, the walk's activations, took together. */
  readonly activationBytes: number;
  readonly interrupted: boolean;
}

/**
 * Trains: takes batches, walks the stages, gives gradients to the optimizer. BAdam's Algorithm 1 (arXiv 2404.02827) is this loop with a
 * BlockOptimizer, which says what is trained at present and switches in endStep().
 * @throws UserError where a loss or the gradients' norm is not finite (nothing is updated by that step, and nothing saved after it), or weights that
 * are to be saved, as a checkpoint or at the end
 */
export async function train(parts: TrainParts): Promise<TrainResult> {
  const walk = new StageWalk(parts.model, { keptBytes: parts.options.keptBytes });
  try {
    return await trainWith(walk, parts);
  } finally {
    walk.dispose();
  }
}

/** What a step holds in memory, beside its activations. */
const heldKinds = ['gradientBytes', 'parameterBytes', 'stateBytes'] as const;

async function trainWith(walk: StageWalk, parts: TrainParts): Promise<TrainResult> {
  const { model, optimizer, batches, options, resume, signal } = parts;
  const steps = [...(resume?.steps ?? [])];
  const validation = [...(resume?.validation ?? [])];
  const timing = { update: 0, evaluation: 0 };
  const most = { gradientBytes: 0, parameterBytes: 0, stateBytes: 0 };
  if (resume) {
    optimizer.restore(resume.optimizer);
    batches.restore(resume.data);
  }
  const state = (): TrainState => ({
    step: steps.length,
    data: batches.state(),
    optimizer: optimizer.state(),
    steps,
    validation,
  });

  const evaluate = async (step: number) => {
    const begin = performance.now();
    const record = { step, loss: await meanLoss(walk, model, parts.validation!, step) };
    timing.evaluation += (performance.now() - begin) / 1000;
    validation.push(record);
    parts.onValidation?.(record);
  };
  // Step 0 is the model as it was given: what training gains is measured from there.
  if (parts.validation && !resume) await evaluate(0);

  while (steps.length < options.totalSteps && !signal?.aborted) {
    const begin = performance.now();
    const step = steps.length + 1;
    const { microBatches, tokens, examples, epoch } = takeMicroBatches(model, batches, options, step);
    const factor = learningRateFactor(options.lrSchedulerType, step - 1, options.totalSteps, options.warmupSteps);
    const learningRate = options.learningRate * factor;
    const block = optimizer.currentBlock?.index ?? null;
    const trained = optimizer.trainable;
    optimizer.learningRate = learningRate;
    const result = await trainStep(walk, model, optimizer, microBatches, options).finally(() =>
      microBatches.forEach(disposeMicroBatch),
    );
    const { loss, gradNorm, skipped, held } = result;
    timing.update += result.updateSeconds;
    for (const kind of heldKinds) most[kind] = Math.max(most[kind], held[kind]);
    const seconds = (performance.now() - begin) / 1000;
    const record = { step, epoch, loss, learningRate, gradNorm, block, tokens, examples, seconds };
    steps.push({ ...record, ...(skipped && { skipped }) });
    parts.onStep?.(steps[steps.length - 1]);

    const last = step === options.totalSteps;
    const evaluationDue = options.evalSteps > 0 && step % options.evalSteps === 0;
    if (parts.validation && (last || evaluationDue)) await evaluate(step);
    const due = options.saveSteps > 0 && step % options.saveSteps === 0;
    // The next step's loss would tell, but these weights are about to be saved: here, or at the end by the caller.
    if (last || due || signal?.aborted) refuseDiverged(model, trained, step);
    if ((due && !last) || signal?.aborted) await parts.save?.(state());
  }

  const { seconds: compile, variants: compiledVariants } = walk.compilation;
  const { forward, backward } = walk.timing;
  const activationBytes = walk.activationBytes;
  const interrupted = steps.length < options.totalSteps;
  return {
    ...{ steps, validation, compiledVariants, interrupted, ...most, activationBytes },
    timing: { forward, backward, compile, ...timing },
  };
}

/** Optimizer steps in an epoch of so many batches. */
export function stepsPerEpoch(batchesPerEpoch: number, gradientAccumulationSteps: number): number {
  return Math.ceil(batchesPerEpoch / gradientAccumulationSteps);
}

/** The next step's batches; a step does not reach over the end of an epoch. */
function takeMicroBatches(
  model: StagedModel,
  source: BatchSource,
  { gradientAccumulationSteps }: TrainOptions,
  step: number,
) {
  const microBatches: MicroBatch[] = [];
  let tokens = 0;
  let examples = 0;
  do {
    const batch = source.next();
    tokens += batch.tokens;
    examples += batch.exampleIndices.length;
    microBatches.push(createMicroBatch(model, { ...batch, dropoutSeed: step * 4096 + microBatches.length }));
  } while (microBatches.length < gradientAccumulationSteps && source.state().position > 0);
  const { epoch, position } = source.state();
  return { microBatches, tokens, examples, epoch: epoch + position / source.batchesPerEpoch };
}

/** One optimizer step. With a fused optimizer no gradient outlives its update: where their norm is wanted, backward runs twice. */
async function trainStep(
  walk: StageWalk,
  model: StagedModel,
  optimizer: Optimizer,
  batches: readonly MicroBatch[],
  { maxGradNorm, clipGradValue = 0 }: TrainOptions,
) {
  const { fused, lossScaler } = optimizer;
  const isMeasured = maxGradNorm > 0 || lossScaler;
  // A projection takes the place of a gradient where all that is done to it is scaling, and, where its norm is wanted, after that.
  const isScaled = clipGradValue === 0 && !lossScaler;
  const projection = (name: string) => (isScaled ? optimizer.projection?.(name) : undefined);
  let [updateSeconds, gradientBytes, coefficient] = [0, 0, 1];
  const backward: Backward = (receive) => {
    const prepare = ([name, gradient]: Gradient) => {
      gradientBytes = Math.max(gradientBytes, byteLengthOf(gradient));
      receive([name, lossScaler ? rounded(gradient, lossScaler) : gradient]);
    };
    return walk.gradients(batches, optimizer.trainable, prepare, isMeasured ? { fused } : { fused, projection });
  };
  const apply = ([name, gradient]: Gradient) => {
    const begin = performance.now();
    const clipped = clipGradient(gradient, coefficient, clipGradValue);
    optimizer.update(name, clipped);
    clipped.dispose();
    updateSeconds += (performance.now() - begin) / 1000;
  };

  optimizer.beginStep();
  const measured = isMeasured ? await measure(backward, !fused, projection) : undefined;
  const skipped = measured && !Number.isFinite(measured.norm);
  if (measured) {
    const { norm, kept } = measured;
    gradientBytes = Math.max(
      gradientBytes,
      kept.reduce((sum, [, gradient]) => sum + byteLengthOf(gradient), 0),
    );
    coefficient = clipCoefficient(norm, maxGradNorm);
    kept.forEach(skipped ? ([, gradient]) => gradient.dispose() : apply);
    if (skipped && !lossScaler) throw new UserError(`the norm of the gradients became ${norm}${diverged}`);
  }
  const loss = measured && (skipped || !fused) ? measured.loss : await backward(apply);
  lossScaler?.update(skipped ?? false);

  const begin = performance.now();
  const { masters, states: stateBytes } = optimizer.memory();
  const parameterBytes = weightBytes(model, masters);
  optimizer.endStep();
  updateSeconds += (performance.now() - begin) / 1000;
  const gradNorm = measured && !skipped ? measured.norm : null;
  return { loss, gradNorm, skipped, updateSeconds, held: { gradientBytes, parameterBytes, stateBytes } };
}

/** Bytes of a model's weights, of which so many are an optimizer's masters: those of active parameters, or of some entries beside them. */
function weightBytes({ parameters }: StagedModel, masters: number): number {
  const all = [...parameters.values()];
  return totalBytes(all) + masters - totalBytes(all.filter(({ master }) => master));
}

/** A backward pass that hands out each gradient as it appears, owned by the receiver. Returns the loss. */
type Backward = (receive: (gradient: Gradient) => void) => Promise<number>;

/** A pass for the norm of all gradients, summed in float64 from per-tensor sums; they (or their projections) are kept, or freed at once. */
async function measure(backward: Backward, keep: boolean, projectionOf: (name: string) => Projection | undefined) {
  const kept: Gradient[] = [];
  let squares = 0;
  try {
    const loss = await backward(([name, gradient]) => {
      squares += sumOfSquares(gradient);
      const projection = projectionOf(name);
      if (keep) kept.push([name, projection?.of(gradient) ?? gradient]);
      if (!keep || projection) gradient.dispose();
    });
    return { loss, norm: Math.sqrt(squares), kept };
  } catch (error) {
    kept.forEach(([, gradient]) => gradient.dispose());
    throw error;
  }
}

/** A gradient as float16 holds it; consumes it. */
function rounded(gradient: AnyTensor, lossScaler: DynamicLossScaler): tf.Tensor {
  const values = cast(gradient);
  const result = lossScaler.throughFloat16(values);
  values.dispose();
  gradient.dispose();
  return result;
}

const diverged = ': training stopped. Begin again with a lower learning_rate or max_grad_norm, or more warm-up';

/** @throws UserError where the update of a step left weights that are no numbers */
function refuseDiverged({ parameters }: StagedModel, trained: ReadonlySet<string>, step: number): void {
  for (const name of trained) {
    const parameter = parameters.get(name)!;
    const values = parameter.acquire();
    const isFinite = allFinite(values);
    parameter.release(values);
    if (!isFinite)
      throw new UserError(`the update of step ${step} left values in ${name} that are not finite${diverged}`);
  }
}

/**
 * Mean cross-entropy over all labels of a source's first epoch, in nats.
 * @throws UserError where it is not finite
 */
export async function evaluateLoss(model: StagedModel, source: BatchSource): Promise<number> {
  const walk = new StageWalk(model);
  try {
    return await meanLoss(walk, model, source);
  } finally {
    walk.dispose();
  }
}

/** @param step steps trained before; 0: the model is as it was given */
async function meanLoss(walk: StageWalk, model: StagedModel, source: BatchSource, step = 0): Promise<number> {
  let total = 0;
  let count = 0;
  for (const batch of source.epochBatches()) {
    const micro = createMicroBatch(model, batch);
    const { sum, labels } = await walk.lossSum(micro);
    disposeMicroBatch(micro);
    total += sum;
    count += labels;
  }
  if (count === 0) throw new UserError('the validation data has no label to predict: give it examples with answers');
  const loss = total / count;
  if (!Number.isFinite(loss))
    throw new UserError(
      step === 0
        ? `the loss of the model as it was given is ${loss}: its weights are damaged (some are not finite), or its config.json is another model's; get the model again`
        : `the validation loss after step ${step} became ${loss}${diverged}`,
    );
  return loss;
}
