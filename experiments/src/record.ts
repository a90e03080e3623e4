import { parameterCount } from '@blockwise/model-zoo';
import { runRecordVersion, type RunRecord } from '@blockwise/reporting';
import { describeEngine, type MemoryPeaks } from '@blockwise/tensorflow';
import type { PlannedMemory, StepRecord, TrainResult, TrainState, ValidationRecord } from '@blockwise/training';
import { relative } from 'node:path';
import type { ChosenOptimizer } from './create-optimizer.ts';
import { repository } from './embedded.ts';
import { describeMachine, gitCommit, packageVersions } from './machine.ts';
import type { TrainedModel } from './open-model.ts';
import type { Options } from './options.ts';
import type { PreparedData } from './prepare-data.ts';

/** What a run's record says of it before anything is loaded. */
export function openRecord(options: Options, command: string) {
  return {
    schemaVersion: runRecordVersion,
    name: 'alpaca-llama',
    command,
    config: { ...options },
    seed: options.seed,
    startedAt: new Date().toISOString(),
    finishedAt: null,
    status: 'running',
    error: null,
    commit: gitCommit(),
    versions: { node: process.version, packages: packageVersions() },
    machine: describeMachine(),
  } as const;
}

/** What a run trains, once all of it is there. */
export interface RunParts {
  opened: TrainedModel;
  chosen: ChosenOptimizer;
  data: PreparedData;
  planned: PlannedMemory;
  /** Where it goes on from. */
  state: TrainState | undefined;
}

/** The record of a run whose training begins: all but what comes of it. */
export function begunRecord(
  opening: ReturnType<typeof openRecord>,
  { opened: { model }, chosen, data, planned, state }: RunParts,
): RunRecord {
  const { parameters, gradients, optimizerStates, activations, workspace, peak } = planned;
  const nothing = { parameters: null, gradients: null, optimizerStates: null, activations: null, workspace: null };
  return {
    ...opening,
    versions: { ...opening.versions, libtensorflow: describeEngine().tensorflow },
    model: {
      name: opening.config.modelNameOrPath,
      parameters: parameterCount(model.config).total,
      layers: model.config.num_hidden_layers,
      blocks: chosen.blocks?.blocks.length ?? 1,
    },
    data: {
      path: data.files.map((file) => (file.startsWith(repository) ? relative(repository, file) : file)).join(','),
      sha256: data.sha256,
      examples: data.train.length + data.validation.length,
      trainExamples: data.train.length,
      validationExamples: data.validation.length,
      labelTokens: data.labelTokens,
    },
    timing: {
      ...{ total: 0, compile: 0, forward: 0, backward: 0, update: 0, evaluation: 0 },
      ...{ tokensPerSecond: null, examplesPerSecond: null },
    },
    memory: {
      planned: { parameters, gradients, optimizerStates, activations, workspace, peak },
      measured: { ...nothing, peak: null, peakResident: null, peakAnonymous: null, peakFileBacked: null },
    },
    steps: (state?.steps ?? []).map(stepEntry),
    validation: (state?.validation ?? []).map(validationEntry),
    blockHistory: [],
    samples: [],
  };
}

/** Steps that compile and warm up; rates leave them out. */
const warmUpShare = 0.1;

/** The record of a run that has ended: its end, and what came of it. */
export function finishedRecord(
  record: RunRecord,
  run: { chosen: ChosenOptimizer; result: TrainResult; peaks: MemoryPeaks; samples: RunRecord['samples'] },
): RunRecord {
  const { chosen, result, peaks, samples } = run;
  const steady = result.steps.slice(Math.ceil(result.steps.length * warmUpShare));
  const steadySeconds = steady.reduce((sum, step) => sum + step.seconds, 0);
  const rate = (count: 'tokens' | 'examples') =>
    steadySeconds > 0 ? steady.reduce((sum, step) => sum + step[count], 0) / steadySeconds : null;
  const ended = endedRecord(record, chosen);
  return {
    ...ended,
    status: result.interrupted ? 'interrupted' : 'finished',
    timing: {
      ...ended.timing,
      ...result.timing,
      tokensPerSecond: rate('tokens'),
      examplesPerSecond: rate('examples'),
    },
    memory: {
      ...record.memory,
      measured: {
        parameters: result.parameterBytes,
        gradients: result.gradientBytes,
        optimizerStates: result.stateBytes,
        activations: result.activationBytes,
        workspace: null,
        peak: peaks.peakResident,
        peakResident: peaks.peakResident,
        peakAnonymous: peaks.peakAnonymous ?? null,
        peakFileBacked: peaks.peakFileBacked ?? null,
      },
    },
    steps: result.steps.map(stepEntry),
    validation: result.validation.map(validationEntry),
    samples,
  };
}

/** The record of a run that an error has ended, with what was seen up to it. */
export function failedRecord(record: RunRecord, chosen: ChosenOptimizer, { message }: Error): RunRecord {
  return { ...endedRecord(record, chosen), status: 'failed', error: message };
}

function endedRecord(record: RunRecord, chosen: ChosenOptimizer): RunRecord {
  const now = new Date();
  const total = (now.getTime() - Date.parse(record.startedAt)) / 1000;
  return {
    ...record,
    finishedAt: now.toISOString(),
    timing: { ...record.timing, total },
    blockHistory: visitsOf(chosen),
  };
}

/** A step as the record keeps it. */
export function stepEntry(record: StepRecord): RunRecord['steps'][number] {
  const { step, epoch, loss, learningRate, gradNorm, block, tokens, seconds } = record;
  return { step, epoch, loss, learningRate, gradNorm, block, tokens, seconds };
}

/** A validation as the record keeps it. */
export function validationEntry({ step, loss }: ValidationRecord): RunRecord['validation'][number] {
  return { step, loss, perplexity: Math.exp(loss) };
}

/** The turns of blocks; the one that the last step's switch only began is left out. */
function visitsOf({ blocks }: ChosenOptimizer): RunRecord['blockHistory'] {
  const taken = (blocks?.history ?? []).filter(({ firstStep, lastStep }) => lastStep >= firstStep);
  return taken.map(({ blockEpoch, block, prefixes, firstStep, lastStep }) => ({
    ...{ blockEpoch, block, name: prefixes.join(' '), firstStep, lastStep },
  }));
}
