import { parameterCount } from '@blockwise/model-zoo';
import { runRecordVersion, type RunRecord } from '@blockwise/reporting';
import { describeEngine, type MemoryPeaks } from '@blockwise/tensorflow';
import type { PlannedMemory, StepRecord, TrainResult, ValidationRecord } from '@blockwise/training';
import { relative } from 'node:path';
import type { ChosenOptimizer } from './create-optimizer.ts';
import { repository } from './embedded.ts';
import { describeMachine, gitCommit, packageVersions } from './machine.ts';
import type { TrainedModel } from './open-model.ts';
import type { Options } from './options.ts';
import type { PreparedData } from './prepare-data.ts';

/** The record of a run that has just begun: all that is known before anything is loaded. */
export function openRecord(options: Options, command: string): RunRecord {
  const nothing = {
    parameters: null,
    gradients: null,
    optimizerStates: null,
    activations: null,
    workspace: null,
    peak: null,
  };
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
    versions: { node: process.version, libtensorflow: null, packages: packageVersions() },
    machine: describeMachine(),
    model: { name: options.modelNameOrPath, parameters: 0, layers: 0, blocks: 0 },
    data: { path: options.dataset, sha256: null, examples: 0, trainExamples: 0, validationExamples: 0, labelTokens: 0 },
    timing: {
      total: 0,
      compile: 0,
      forward: 0,
      backward: 0,
      update: 0,
      evaluation: 0,
      tokensPerSecond: null,
      examplesPerSecond: null,
    },
    memory: { planned: null, measured: { ...nothing, peakResident: null, peakAnonymous: null, peakFileBacked: null } },
    steps: [],
    validation: [],
    blockHistory: [],
    samples: [],
  };
}

/** Steps that compile and warm up; rates leave them out. */
const warmUpShare = 0.1;

/** The record of a run that has ended. */
export function finishedRecord(
  record: RunRecord,
  run: {
    opened: TrainedModel;
    chosen: ChosenOptimizer;
    data: PreparedData;
    result: TrainResult;
    planned: PlannedMemory;
    peaks: MemoryPeaks;
    samples: RunRecord['samples'];
    seconds: number;
  },
): RunRecord {
  const { opened, chosen, data, result, planned, peaks, samples, seconds } = run;
  const { model } = opened;
  const steady = result.steps.slice(Math.ceil(result.steps.length * warmUpShare));
  const steadySeconds = steady.reduce((sum, step) => sum + step.seconds, 0);
  const rate = (count: 'tokens' | 'examples') =>
    steadySeconds > 0 ? steady.reduce((sum, step) => sum + step[count], 0) / steadySeconds : null;
  const { parameters, gradients, optimizerStates, activations, workspace, peak } = planned;
  return {
    ...record,
    finishedAt: new Date().toISOString(),
    status: result.interrupted ? 'interrupted' : 'finished',
    versions: { ...record.versions, libtensorflow: describeEngine().tensorflow },
    model: {
      name: record.model.name,
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
    timing: { total: seconds, ...result.timing, tokensPerSecond: rate('tokens'), examplesPerSecond: rate('examples') },
    memory: {
      planned: { parameters, gradients, optimizerStates, activations, workspace, peak },
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
    blockHistory: visitsOf(chosen),
    samples,
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
