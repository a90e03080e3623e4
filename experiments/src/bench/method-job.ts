import type { Random } from '@blockwise/loaders';
import { llama_110m, llamaConfigJson, saveFreshLlama } from '@blockwise/model-zoo';
import { initTensorFlow } from '@blockwise/tensorflow';
import { join } from 'node:path';
import type { Options } from '../options.ts';
import type { Side } from './alternate.ts';
import { spread } from './spread.ts';
import { tiny, tinyConfig } from './tiny.ts';
import { benchFolder, randomBatch, type TrainJob } from './train-job.ts';

const config = tiny ? { ...tinyConfig, tie_word_embeddings: true } : llama_110m;
const [rows, length] = tiny ? [2, 32] : [4, 256];
export const batchShape = { rows, length, tokens: rows * length };
/** Rounds that count. */
export const counted = tiny ? 2 : 5;
/** Steps of a round, one after the other as in training: one that follows other sides' rounds starts on a cold machine. */
export const stepsPerRound = 2;
const warmUp = 1;

/** Rounds of a method at the 110M shape, on weights of a folder. */
export function methodJob(method: Partial<Options>, folder: string, random: Random): TrainJob {
  const batch = () => randomBatch(config.vocab_size, rows, length, random);
  return {
    ...{ config, hf: llamaConfigJson(config), weights: { folder }, dtype: 'bfloat16', block: null, method },
    warmUp: Array.from({ length: warmUp }, batch),
    rounds: Array.from({ length: counted }, () => Array.from({ length: stepsPerRound }, batch)),
  };
}

/** A side's rounds as seconds of a step. */
export function perStep(side: Side): Side {
  const rounds = side.rounds.map((seconds) => seconds / stepsPerRound);
  return { ...side, rounds, seconds: spread(rounds) };
}

/** Writes the model that all methods start from, bfloat16; returns its folder, which goes with this process. */
export async function freshModel(seed: number): Promise<string> {
  const folder = join(benchFolder(), 'model');
  await initTensorFlow();
  await saveFreshLlama(folder, config, { seed, dtype: 'bfloat16' });
  return folder;
}
