import { resolveModelPath, type Example } from '@blockwise/loaders';
import { parameterCount } from '@blockwise/model-zoo';
import { writeReport, writeRunRecord, type RunRecord } from '@blockwise/reporting';
import { hasBfloat16Products, initTensorFlow, MemoryMeter, readMemory, resetPeakMemory } from '@blockwise/tensorflow';
import {
  evaluateLoss,
  isCheckpoint,
  latestCheckpoint,
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
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createAnswerer, type Answerer } from './answer.ts';
import type { ChosenOptimizer } from './create-optimizer.ts';
import { embedded, repository } from './embedded.ts';
import { openJsonLog } from './json-log.ts';
import { methods } from './methods.ts';
import { storageOf, type TrainedModel } from './open-model.ts';
import { typedName, type OptionName, type Options } from './options.ts';
import { claimOutputFolder, type OutputFolder } from './output-folder.ts';
import { planRun, stepOptions } from './plan-run.ts';
import { prepareData, promptOf, type PreparedData } from './prepare-data.ts';
import { createProgress, type Progress } from './progress.ts';
import { finishedRecord, openRecord, stepEntry, validationEntry } from './record.ts';
import { openTensorBoard } from './tensorboard.ts';
import { UserError } from './user-error.ts';

/** What a caller may watch and steer. */
export interface FineTuneControl {
  /** Stops after the step in hand, with a checkpoint. */
  signal?: AbortSignal;
  /** Where lines and the progress bar go; default standard output. */
  stream?: NodeJS.WriteStream;
}

export interface FineTuneResult {
  outputDir: string;
  record: RunRecord;
  interrupted: boolean;
}

/** Prompts answered before and after, and tokens of an answer at most. */
const sampleCount = 3;
const sampleTokens = 64;

/**
 * The whole recipe: data, model, optimizer, plan, samples, training, samples, model, report. Until training begins nothing in the output
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
  const resume = options.resumeFromCheckpoint !== null;
  const folder = claimOutputFolder(outputDir, { overwrite: options.overwriteOutputDir, resume });
  const ongoing = new OngoingRecord(join(outputDir, 'run.json'), openRecord(options, command), folder);
  try {
    const result = await run(options, outputDir, ongoing, control);
    writeReport(outputDir, result.record, { plotLoss: options.plotLoss });
    ongoing.end(result.record);
    return { outputDir, ...result };
  } catch (error) {
    ongoing.fail(error as Error);
    throw error;
  } finally {
    folder.release();
  }
}

/** The record of a run in hand, and its file from the moment that training begins. */
class OngoingRecord {
  private begun = false;

  constructor(
    private readonly path: string,
    readonly record: RunRecord,
    private readonly folder: OutputFolder,
  ) {}

  /** Training is about to begin: what an earlier run left goes, and run.json says that this one runs. */
  begin(resumed: TrainState | undefined): void {
    this.folder.clear();
    this.begun = true;
    this.record.steps.push(...(resumed?.steps ?? []).map(stepEntry));
    this.record.validation.push(...(resumed?.validation ?? []).map(validationEntry));
    writeRunRecord(this.path, this.record);
  }

  end(finished: RunRecord): void {
    writeRunRecord(this.path, finished);
  }

  /** Keeps the losses up to the failure. */
  fail({ message }: Error): void {
    if (!this.begun) return;
    writeRunRecord(this.path, {
      ...this.record,
      status: 'failed',
      error: message,
      finishedAt: new Date().toISOString(),
    });
  }
}

function chooseOutputFolder({ outputDir, resumeFromCheckpoint: from }: Options): string {
  if (outputDir !== null) return outputDir;
  if (from === 'latest')
    throw new UserError('--resume_from_checkpoint latest needs --output_dir: the folder of the run that goes on');
  if (from !== null) {
    needCheckpoint(from);
    return dirname(from);
  }
  const stamp = new Date().toISOString().slice(0, 19).replaceAll(':', '-');
  return join(repository, 'results/alpaca-llama', stamp);
}

async function run(options: Options, outputDir: string, ongoing: OngoingRecord, control: FineTuneControl) {
  const stream = control.stream ?? process.stdout;
  const note = (line: string) => void stream.write(`${line}\n`);
  const begin = performance.now();

  // Everything that can be wrong with names, files and options is found before the engine and the weights are loaded.
  const modelFolder =
    options.modelNameOrPath === 'embedded'
      ? embedded.model
      : await resolveModelPath(options.modelNameOrPath, hubOptions(options));
  const data = await prepareData(options, modelFolder, note);
  const checkpoint = chooseCheckpoint(options, outputDir, note);
  await initTensorFlow({ device: options.device });
  const baseBytes = readMemory().resident;

  const method = methods[options.finetuningType];
  const opened = method.open(options, modelFolder, checkpoint);
  opened.warnings.forEach((warning) => note(`warning: ${warning}`));
  if (options.computeDtype === 'bfloat16' && !hasBfloat16Products(options.device === 'gpu' ? 'gpu' : 'cpu'))
    note(
      'warning: --compute_dtype bfloat16: this CPU has no instructions for it (AVX512_BF16, AMX); float32 is many times faster here',
    );
  const chosen = method.optimizer(options, opened, data.train.length);
  const settings = trainOptions(options, data);
  const length = Math.max(...data.batches.lengths);
  const planned = await planRun({ options, folder: modelFolder, checkpoint, length, baseBytes });
  const fingerprint = fingerprintOf(options, data, chosen, settings);
  const state = checkpoint ? loadCheckpoint(checkpoint, fingerprint) : undefined;
  note(describeRun(options, opened, chosen, data, settings, planned));

  const answers = createAnswerer(opened.model, data);
  const samples = await answerBefore(answers, data, options, checkpoint ? modelFolder : undefined);
  ongoing.begin(state);
  resetPeakMemory();
  const meter = new MemoryMeter();
  const result = options.doTrain
    ? await trainWithLogs({
        options,
        outputDir,
        opened,
        chosen,
        data,
        settings,
        fingerprint,
        state,
        stream,
        signal: control.signal,
        ongoing,
      })
    : await evaluateOnly(opened, data);
  const peaks = meter.stop();

  const prompts = samples.map(({ ids }) => ids);
  const after = result.interrupted ? [] : await answers(prompts, sampleTokens);
  if (options.doTrain && !result.interrupted) {
    await opened.save(join(outputDir, 'model'));
    if (options.exportDir !== null) await opened.export?.(options.exportDir);
  }
  const seconds = (performance.now() - begin) / 1000;
  const finished = finishedRecord(ongoing.record, {
    opened,
    chosen,
    data,
    result,
    planned,
    peaks,
    samples: samples.map(({ prompt, before }, i) => ({ prompt, before, after: after[i] ?? null })),
    seconds,
  });
  showEnd(note, finished, outputDir);
  chosen.optimizer.dispose();
  opened.model.dispose();
  return { record: finished, interrupted: result.interrupted };
}

const hubOptions = ({ cacheDir }: Options) => (cacheDir ? { cacheDir: join(cacheDir, 'hub') } : {});

/** The checkpoint to go on from: the one named, or the newest of the run's folder. */
function chooseCheckpoint(
  { resumeFromCheckpoint: from }: Options,
  outputDir: string,
  note: (line: string) => void,
): string | undefined {
  if (from === null) return undefined;
  if (from !== 'latest') {
    needCheckpoint(from);
    return from;
  }
  const newest = latestCheckpoint(outputDir);
  note(newest ? `going on from ${newest}` : `no checkpoint in ${outputDir} yet: starting from the beginning`);
  return newest;
}

/** Before anything is written near it. */
function needCheckpoint(folder: string): void {
  if (!existsSync(folder)) throw new UserError(`--resume_from_checkpoint ${folder}: no such folder`);
  if (!isCheckpoint(folder))
    throw new UserError(
      `--resume_from_checkpoint ${folder}: not a checkpoint (it has no trainer_state.json); give a folder named checkpoint-<step>, or latest`,
    );
}

/** Options in steps. */
function trainOptions(options: Options, data: PreparedData): TrainOptions {
  const perEpoch = stepsPerEpoch(data.batches.batchesPerEpoch, options.gradientAccumulationSteps);
  const totalSteps = options.maxSteps > 0 ? options.maxSteps : Math.ceil(options.numTrainEpochs * perEpoch);
  const evalSteps = { no: 0, steps: options.evalSteps, epoch: perEpoch }[options.evaluationStrategy];
  return {
    totalSteps,
    ...stepOptions(options),
    learningRate: options.learningRate,
    lrSchedulerType: options.lrSchedulerType,
    // transformers: warmup_steps, where given, goes before warmup_ratio.
    warmupSteps: options.warmupSteps > 0 ? options.warmupSteps : Math.ceil(totalSteps * options.warmupRatio),
    evalSteps,
    saveSteps: options.saveSteps,
  };
}

/** Options that do not change the result, or whose part in it is compared otherwise (the data by what was read, lengths in steps). */
const indifferent: OptionName[] = [
  ...(['modelNameOrPath', 'template', 'stage', 'dataset', 'maxSamples', 'overwriteCache', 'cacheDir'] as const),
  ...([
    'switchBlockEvery',
    'useBadam',
    'badamMode',
    'useGalore',
    'useAdamMini',
    'quantizationBit',
    'exportDir',
  ] as const),
  ...(['learningRate', 'lrSchedulerType', 'warmupRatio', 'warmupSteps', 'maxGradNorm', 'clipGradValue'] as const),
  ...(['doTrain', 'gradientAccumulationSteps', 'numTrainEpochs', 'maxSteps', 'valSize', 'evaluationStrategy'] as const),
  ...(['evalSteps', 'outputDir', 'overwriteOutputDir', 'resumeFromCheckpoint', 'saveSteps', 'loggingSteps'] as const),
  ...(['reportTo', 'plotLoss', 'device', 'streamed'] as const),
];

/** What a run must share with the one that it goes on from, for the result to be that of an uninterrupted one; names as they are typed. */
function fingerprintOf(
  options: Options,
  data: PreparedData,
  chosen: ChosenOptimizer,
  settings: TrainOptions,
): Fingerprint {
  const decisive = (Object.keys(options) as OptionName[]).filter((name) => !indifferent.includes(name));
  const steps = Object.entries(settings).filter(([name]) => name !== 'saveSteps' && name !== 'keptBytes');
  const named = { ...Object.fromEntries(decisive.map((name) => [name, options[name]])), ...Object.fromEntries(steps) };
  return {
    dataset_sha256: data.sha256,
    train_examples: data.train.length,
    ...Object.fromEntries(Object.entries(named).map(([name, value]) => [typedName(name as OptionName), value])),
    switch_block_every: chosen.switchBlockEvery ?? null,
    // An adapter's checkpoint does not hold the weights that it adapts.
    ...(/^q?lora$/.test(options.finetuningType) ? { model_name_or_path: options.modelNameOrPath } : {}),
  };
}

interface Sample {
  ids: number[];
  prompt: string;
  before: string;
}

/** Answers of the model as it was before training (in a resumed run: of the `original` weights). */
async function answerBefore(
  answers: Answerer,
  data: PreparedData,
  options: Options,
  original?: string,
): Promise<Sample[]> {
  const source: Example[] = data.validation.length > 0 ? data.validation : data.train;
  const prompts = source.slice(0, sampleCount).map(promptOf);
  const untrained = original ? methods[options.finetuningType].open(options, original) : undefined;
  const before = await (untrained ? createAnswerer(untrained.model, data) : answers)(prompts, sampleTokens);
  untrained?.model.dispose();
  return prompts.map((ids, i) => ({
    ids,
    prompt: data.tokenizer.decode(ids, { skipSpecialTokens: true }),
    before: before[i],
  }));
}

interface TrainingParts {
  options: Options;
  outputDir: string;
  opened: TrainedModel;
  chosen: ChosenOptimizer;
  data: PreparedData;
  settings: TrainOptions;
  fingerprint: Fingerprint;
  state: TrainState | undefined;
  stream: NodeJS.WriteStream;
  signal: AbortSignal | undefined;
  ongoing: OngoingRecord;
}

async function trainWithLogs(parts: TrainingParts): Promise<TrainResult> {
  const { options, outputDir, opened, chosen, data, settings, fingerprint, state, stream, ongoing } = parts;
  const doneSteps = state?.step ?? 0;
  const progress = createProgress({
    totalSteps: settings.totalSteps,
    doneSteps,
    loggingSteps: options.loggingSteps,
    stream,
  });
  const board = options.reportTo.includes('tensorboard')
    ? openTensorBoard(join(outputDir, 'tensorboard'), doneSteps)
    : undefined;
  const log = options.reportTo.includes('jsonl') ? openJsonLog(join(outputDir, 'log.jsonl'), doneSteps) : undefined;
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
        ongoing.record.steps.push(stepEntry(step));
        showStep(progress, step, chosen);
        if (step.step % options.loggingSteps !== 0 && step.step !== settings.totalSteps) return;
        const { loss, learningRate, gradNorm } = step;
        board?.scalars(step.step, {
          'train/loss': loss,
          'train/learning_rate': learningRate,
          ...(gradNorm === null ? {} : { 'train/grad_norm': gradNorm }),
        });
        log?.append(step);
      },
      onValidation: (validation) => {
        const { step, loss } = validation;
        ongoing.record.validation.push(validationEntry(validation));
        progress.note(`step ${step}: validation loss ${loss.toFixed(4)}`);
        board?.scalars(step, { 'eval/loss': loss });
        log?.append({ step, validationLoss: loss } as never);
      },
      save: async (now) => progress.note(`saved ${await saveCheckpoint(outputDir, opened.save, now, fingerprint)}`),
    });
  } finally {
    progress.stop();
    board?.close();
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

/** --do_train false: the validation loss of the model as it is. */
async function evaluateOnly({ model }: TrainedModel, data: PreparedData): Promise<TrainResult> {
  const begin = performance.now();
  const loss = await evaluateLoss(model, data.validationBatches ?? data.batches);
  const timing = { forward: 0, backward: 0, update: 0, compile: 0, evaluation: (performance.now() - begin) / 1000 };
  return {
    steps: [],
    validation: [{ step: 0, loss }],
    timing,
    compiledVariants: 0,
    gradientBytes: 0,
    masterBytes: 0,
    stateBytes: 0,
    activationBytes: 0,
    interrupted: false,
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
  const first = record.validation[0]?.loss;
  const last = record.validation.at(-1)?.loss;
  if (first && last) note(`\nvalidation loss ${first.toFixed(4)} -> ${last.toFixed(4)}`);
  note(
    `peak memory ${megabytes(peakResident ?? 0)} resident, ${megabytes(peakAnonymous ?? 0)} anonymous; everything is in ${outputDir}`,
  );
}
