import { UserError } from '@blockwise/errors';
import { resolveAdapterPath, resolveModelPath, type BatchSource, type Example } from '@blockwise/loaders';
import { parameterCount, writeFolderAside } from '@blockwise/model-zoo';
import type { RunRecord } from '@blockwise/reporting';
import {
  hasBfloat16Products,
  initTensorFlow,
  MemoryMeter,
  readMemory,
  resetPeakMemory,
  totalBytes,
} from '@blockwise/tensorflow';
import {
  evaluateLoss,
  checkCheckpoint,
  loadCheckpoint,
  saveCheckpoint,
  stepsPerEpoch,
  train,
  type Fingerprint,
  type MemoryPlan,
  type StepRecord,
  type TrainOptions,
  type TrainResult,
  type TrainState,
} from '@blockwise/training';
import { once } from 'node:events';
import { dirname, join } from 'node:path';
import { createAnswerer, type Answerer } from './answer.ts';
import type { ChosenOptimizer } from './create-optimizer.ts';
import { embedded, repository } from './embedded.ts';
import { hubOptions } from './hub-options.ts';
import { methods } from './methods.ts';
import { storageOf, type TrainedModel } from './open-model.ts';
import type { Options } from './options.ts';
import { OngoingRecord } from './ongoing-record.ts';
import { checkExportFolder, claimOutputFolder, refuseToExportOver, type OutputFolder } from './output-folder.ts';
import { chooseCheckpoint, settingsOf } from './resume.ts';
import { planRun, stepOptions } from './plan-run.ts';
import { prepareData, promptOf, type PreparedData } from './prepare-data.ts';
import { createProgress, type Progress } from './progress.ts';
import { finishedRecord, stepEntry, validationEntry, type RunParts } from './record.ts';
import { meanLoss, openRunLogs } from './run-logs.ts';
import { saveChat } from './save-chat.ts';

/** What a caller may watch and steer. */
export interface FineTuneControl {
  /**
   * Stops the run. Before training begins fineTune() throws the signal's reason, with the output folder as it was (a download may go on);
   * in training it stops after the step in hand, with a checkpoint; after it, only sample answers are left out.
   */
  signal?: AbortSignal;
  /** Where lines and the progress bar go; default standard output. */
  stream?: NodeJS.WriteStream;
}

/** How a run ended. */
export interface FineTuneResult {
  outputDir: string;
  record: RunRecord;
  interrupted: boolean;
}

/** Prompts answered before and after, and tokens of an answer at most. */
const sampleCount = 3;
const sampleTokens = 64;

/**
 * The whole recipe: data, model, optimizer, plan, samples, training, model, samples, report. Until training begins nothing in the output
 * folder changes, so that a mistake costs no earlier result.
 * @throws UserError for anything that the user can repair; where training had begun, the folder keeps its last checkpoint and a record of
 * the failure
 */
export async function fineTune(
  options: Options,
  command: string,
  control: FineTuneControl = {},
): Promise<FineTuneResult> {
  const outputDir = chooseOutputFolder(options);
  const checkpoint = chooseCheckpoint(options, outputDir);
  if (options.exportDir !== null) checkExportFolder(options.exportDir);
  const resume = options.resumeFromCheckpoint !== null;
  const folder = claimOutputFolder(outputDir, { overwrite: options.overwriteOutputDir, resume, checkpoint });
  const ongoing = new OngoingRecord(folder, outputDir, options, command);
  try {
    const result = await run(options, outputDir, checkpoint, ongoing, control);
    ongoing.end(result.record);
    return { outputDir, ...result };
  } catch (error) {
    ongoing.fail(error as Error);
    throw error;
  } finally {
    folder.release();
  }
}

function chooseOutputFolder({ outputDir, resumeFromCheckpoint: from }: Options): string {
  if (outputDir !== null) return outputDir;
  if (from === 'latest')
    throw new UserError('--resume_from_checkpoint latest needs --output_dir: the folder of the run that goes on');
  if (from !== null) return dirname(from);
  const stamp = new Date().toISOString().slice(0, 19).replaceAll(':', '-');
  return join(repository, 'results/alpaca-llama', stamp);
}

async function run(
  given: Options,
  outputDir: string,
  checkpoint: string | undefined,
  ongoing: OngoingRecord,
  { stream = process.stdout, signal }: FineTuneControl,
) {
  const note = (line: string) => void stream.write(`${line}\n`);
  const found = await findInputs(given, outputDir, checkpoint, ongoing.folder, note, signal);
  const { options, modelFolder, data, settings, shared } = found;
  await initTensorFlow({ device: options.device });
  const baseBytes = readMemory().resident;

  const method = methods[options.finetuningType];
  const prompts = options.doPredict ? choosePrompts(data) : [];
  // The model as it was before training is gone before the checkpoint's is opened: memory is planned for one.
  const original = checkpoint
    ? await answerAndDispose(method.open(options, modelFolder), data, prompts, signal)
    : undefined;
  const opened = method.open(options, modelFolder, checkpoint);
  opened.warnings.forEach((warning) => note(`warning: ${warning}`));
  if (options.computeDtype === 'bfloat16' && !hasBfloat16Products(options.device === 'gpu' ? 'gpu' : 'cpu'))
    note(
      'warning: --compute_dtype bfloat16: this CPU has no instructions for it (AVX512_BF16, AMX); float32 is many times faster here',
    );
  const chosen = method.optimizer(options, opened, data.train.length);
  const length = Math.max(...data.batches.lengths);
  const planned = await planRun({ options, folder: modelFolder, checkpoint, length, baseBytes });
  const fingerprint = { ...shared, switch_block_every: chosen.switchBlockEvery ?? null };
  const state = checkpoint ? loadCheckpoint(checkpoint, fingerprint) : undefined;
  note(describeRun(options, opened, chosen, data, settings, planned));

  const answer = createAnswerer(opened.model, data);
  const before = original ?? (await answerInTurn(answer, prompts, signal));
  resetPeakMemory();
  const meter = new MemoryMeter();
  const evaluated = options.doTrain ? undefined : await evaluateOnly(opened, chosen, data, state, signal);
  signal?.throwIfAborted();
  const parts = { options, outputDir, opened, chosen, data, settings, fingerprint, planned, state, stream, signal };
  const record = ongoing.begin(parts);
  const result = evaluated ?? (await trainWithLogs(parts, record));
  const peaks = meter.stop();

  if (options.doTrain && !result.interrupted) {
    await writeFolderAside(join(outputDir, 'model'), async (aside) => {
      await opened.save(aside);
      saveChat(aside, data.template);
    });
  }
  const after = result.interrupted ? [] : await answerInTurn(answer, prompts, signal);
  // Last: it uses the model up.
  if (!result.interrupted && options.exportDir !== null) {
    await opened.export?.(options.exportDir);
    saveChat(options.exportDir, data.template);
  }
  const samples = prompts.map((ids, i) => ({
    prompt: data.tokenizer.decode(ids, { skipSpecialTokens: true }),
    before: before[i],
    after: after[i] ?? null,
  }));
  const finished = finishedRecord(record, { chosen, result, peaks, samples });
  showEnd(note, finished, outputDir);
  chosen.optimizer.dispose();
  opened.model.dispose();
  return { record: finished, interrupted: result.interrupted };
}

/** All that a run reads. What can be wrong with names, files and options is found here, before the engine and the weights are loaded. */
async function findInputs(
  given: Options,
  outputDir: string,
  checkpoint: string | undefined,
  folder: OutputFolder,
  note: (line: string) => void,
  signal?: AbortSignal,
) {
  const hub = hubOptions(given, note);
  const modelFolder =
    given.modelNameOrPath === 'embedded'
      ? embedded.model
      : await unlessStopped(resolveModelPath(given.modelNameOrPath, hub), signal);
  const adapter =
    given.adapterNameOrPath && (await unlessStopped(resolveAdapterPath(given.adapterNameOrPath, hub), signal));
  const options = { ...given, adapterNameOrPath: adapter };
  const data = await unlessStopped(prepareData(options, modelFolder, note), signal);
  const read = [modelFolder, adapter, checkpoint].filter((folder) => folder != null);
  folder.refuseToDelete([...read, ...data.files]);
  if (options.exportDir !== null) refuseToExportOver(options.exportDir, [...read, join(outputDir, 'model')]);
  if (options.resumeFromCheckpoint === 'latest')
    note(checkpoint ? `going on from ${checkpoint}` : `no checkpoint in ${outputDir} yet: starting from the beginning`);
  const settings = trainOptions(options, data);
  const shared = settingsOf(options, modelFolder, data, settings);
  if (checkpoint) checkCheckpoint(checkpoint, shared);
  return { options, modelFolder, data, settings, shared };
}

/** What the work gives, unless the signal comes first: then its reason is thrown, and nobody waits for the work. */
async function unlessStopped<T>(work: Promise<T>, signal?: AbortSignal): Promise<T> {
  if (!signal) return work;
  const stopped = signal.aborted ? Promise.resolve() : once(signal, 'abort');
  return Promise.race([stopped.then(() => Promise.reject(signal.reason as Error)), work]);
}

/** Options in steps. */
function trainOptions(options: Options, data: PreparedData): TrainOptions {
  const perEpoch = stepsPerEpoch(data.batches.batchesPerEpoch, options.gradientAccumulationSteps);
  const totalSteps = options.maxSteps > 0 ? options.maxSteps : Math.ceil(options.numTrainEpochs * perEpoch);
  const evalSteps = { no: 0, steps: inSteps(options.evalSteps, totalSteps), epoch: perEpoch };
  return {
    totalSteps,
    ...stepOptions(options),
    learningRate: options.learningRate,
    lrSchedulerType: options.lrSchedulerType,
    // transformers: warmup_steps, where given, goes before warmup_ratio.
    warmupSteps: options.warmupSteps > 0 ? options.warmupSteps : Math.ceil(totalSteps * options.warmupRatio),
    evalSteps: evalSteps[options.evaluationStrategy],
    saveSteps: inSteps(options.saveSteps, totalSteps),
  };
}

/** A number of steps; transformers rounds a share of all steps up. */
function inSteps(stepsOrShare: number, totalSteps: number): number {
  return stepsOrShare < 1 ? Math.ceil(totalSteps * stepsOrShare) : stepsOrShare;
}

/** What the model is asked before and after. */
function choosePrompts({ train, validation }: PreparedData): number[][] {
  const source: Example[] = validation.length > 0 ? validation : train;
  return source.slice(0, sampleCount).map(promptOf);
}

/** Answers the prompts one after the other, until the signal comes. */
async function answerInTurn(answer: Answerer, prompts: readonly number[][], signal?: AbortSignal): Promise<string[]> {
  const given: string[] = [];
  for (const prompt of prompts) if (!signal?.aborted) given.push(await answer(prompt, sampleTokens));
  return given;
}

/** Answers of a model that is wanted for nothing else. */
async function answerAndDispose(
  { model }: TrainedModel,
  data: PreparedData,
  prompts: readonly number[][],
  signal?: AbortSignal,
): Promise<string[]> {
  const given = await answerInTurn(createAnswerer(model, data), prompts, signal);
  model.dispose();
  signal?.throwIfAborted();
  return given;
}

interface TrainingParts extends RunParts {
  options: Options;
  outputDir: string;
  settings: TrainOptions;
  fingerprint: Fingerprint;
  stream: NodeJS.WriteStream;
  signal: AbortSignal | undefined;
}

/** Trains, and adds each step and validation to the record, the terminal and the logs. */
async function trainWithLogs(parts: TrainingParts, record: RunRecord): Promise<TrainResult> {
  const { options, outputDir, opened, chosen, data, settings, fingerprint, state, stream } = parts;
  const doneSteps = state?.step ?? 0;
  const { totalSteps } = settings;
  const loggingSteps = inSteps(options.loggingSteps, totalSteps);
  const progress = createProgress({ totalSteps, doneSteps, loggingSteps, stream });
  const logs = openRunLogs(options, outputDir, doneSteps, progress.note);
  let unlogged: StepRecord | undefined;
  try {
    return await train({
      model: opened.model,
      optimizer: chosen.optimizer,
      batches: data.batches,
      validation: options.evaluationStrategy === 'no' ? undefined : data.validationBatches,
      options: settings,
      ...(state ? { resume: state } : {}),
      ...(parts.signal ? { signal: parts.signal } : {}),
      onStep: (step) => {
        record.steps.push(stepEntry(step));
        unlogged = { ...step, loss: meanLoss(record.steps, loggingSteps) };
        showStep(progress, unlogged, chosen);
        if (step.step % loggingSteps !== 0 && step.step !== totalSteps) return;
        logs.step(unlogged);
        unlogged = undefined;
      },
      onValidation: (validation) => {
        const { step, loss } = validation;
        record.validation.push(validationEntry(validation));
        progress.note(`step ${step}: validation loss ${loss.toFixed(4)}`);
        logs.validation(validation);
      },
      save: async (now) => progress.note(`saved ${await saveCheckpoint(outputDir, opened.save, now, fingerprint)}`),
    });
  } catch (error) {
    if (unlogged) logs.step(unlogged);
    throw error;
  } finally {
    progress.stop();
    logs.close();
  }
}

function showStep(
  progress: Progress,
  { step, loss, learningRate, block, tokens, seconds }: StepRecord,
  { blocks }: ChosenOptimizer,
): void {
  const name = block === null ? null : (blocks?.blocks[block].prefixes[0] ?? String(block));
  progress.step({
    step,
    loss,
    learningRate,
    block: name,
    tokensPerSecond: tokens / seconds,
    residentBytes: readMemory().resident,
  });
}

/**
 * --do_train false: the validation loss of the model as it is, behind what a checkpoint's run had measured.
 * @throws the signal's reason, where it comes in the meantime
 */
async function evaluateOnly(
  { model }: TrainedModel,
  { optimizer }: ChosenOptimizer,
  data: PreparedData,
  state?: TrainState,
  signal?: AbortSignal,
): Promise<TrainResult> {
  const begin = performance.now();
  // The active parameters' masters say more than the weights at rest.
  if (state) optimizer.restore(state.optimizer);
  const { steps, validation, step } = state ?? { steps: [], validation: [], step: 0 };
  const loss = await evaluateLoss(model, stoppable(data.validationBatches ?? data.batches, signal));
  const timing = { forward: 0, backward: 0, update: 0, compile: 0, evaluation: (performance.now() - begin) / 1000 };
  return {
    steps,
    validation: [...validation.filter((earlier) => earlier.step !== step), { step, loss }],
    timing,
    compiledVariants: 0,
    gradientBytes: 0,
    parameterBytes: totalBytes(model.parameters.values()),
    stateBytes: 0,
    activationBytes: 0,
    interrupted: false,
  };
}

/** The same batches, until the signal comes. */
function stoppable(source: BatchSource, signal?: AbortSignal): BatchSource {
  return {
    ...source,
    *epochBatches(epoch) {
      for (const batch of source.epochBatches(epoch)) {
        signal?.throwIfAborted();
        yield batch;
      }
    },
  };
}

const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(0)} MB`;

function describeRun(
  options: Options,
  { model }: TrainedModel,
  chosen: ChosenOptimizer,
  data: PreparedData,
  settings: TrainOptions,
  planned: MemoryPlan,
): string {
  const { total } = parameterCount(model.config);
  return [
    `model: ${options.modelNameOrPath}, ${(total / 1e6).toFixed(2)}M parameters in ${storageOf(options)}; training ${chosen.training}`,
    `steps: ${settings.totalSteps} of ${options.perDeviceTrainBatchSize} x ${settings.gradientAccumulationSteps} examples; ${data.train.length} to train on, ${data.validation.length} held out; row lengths ${data.batches.lengths.join(', ')}`,
    `memory planned: ${megabytes(planned.peak)} peak, of it parameters ${megabytes(planned.parameters)}, gradients ${megabytes(planned.gradients)}, optimizer states ${megabytes(planned.optimizerStates)}, activations ${megabytes(planned.activations)}, workspace ${megabytes(planned.workspace)}`,
  ].join('\n');
}

function showEnd(note: (line: string) => void, record: RunRecord, outputDir: string): void {
  for (const { prompt, before, after } of record.samples) {
    note(`\nprompt: ${prompt.trim()}\n  before: ${before.trim()}\n  after:  ${after?.trim() ?? '(interrupted)'}`);
  }
  const { peakResident, peakAnonymous } = record.memory.measured;
  const [first, last] = [record.validation[0], record.validation.at(-1)].map((found) => found?.loss?.toFixed(4));
  if (first) note(`\nvalidation loss ${record.validation.length > 1 ? `${first} -> ${last}` : first}`);
  note(
    `peak memory ${megabytes(peakResident ?? 0)} resident, ${megabytes(peakAnonymous ?? 0)} anonymous; everything is in ${outputDir}`,
  );
}
