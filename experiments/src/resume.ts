import { UserError } from '@blockwise/errors';
import { isCheckpoint, latestCheckpoint, type Fingerprint, type TrainOptions } from '@blockwise/training';
import { existsSync } from 'node:fs';
import { baseDigest } from './base-digest.ts';
import { methods } from './methods.ts';
import type { Option } from './option.ts';
import { optionTable, typedName, type OptionName, type Options } from './options.ts';
import { isIn } from './output-folder.ts';
import type { PreparedData } from './prepare-data.ts';

/**
 * The checkpoint to go on from: the one named, or the newest of the run's folder.
 * @throws UserError where the one named is none, or would be evaluated in the place of its own run's record
 */
export function chooseCheckpoint(
  { resumeFromCheckpoint: from, doTrain }: Options,
  outputDir: string,
): string | undefined {
  if (from === null) return undefined;
  if (from !== 'latest') needCheckpoint(from);
  const chosen = from === 'latest' ? latestCheckpoint(outputDir) : from;
  if (chosen && !doTrain && isIn(chosen, outputDir))
    throw new UserError(
      `--do_train false would overwrite the record of the run in ${outputDir}: give --resume_from_checkpoint ${chosen} and another --output_dir`,
    );
  return chosen;
}

/** Before anything is written near it. */
function needCheckpoint(folder: string): void {
  if (!existsSync(folder)) throw new UserError(`--resume_from_checkpoint ${folder}: no such folder`);
  if (!isCheckpoint(folder))
    throw new UserError(
      `--resume_from_checkpoint ${folder}: not a checkpoint (it has no trainer_state.json); give a folder named checkpoint-<step>, or latest`,
    );
}

/**
 * What a run must share with the one that it goes on from, for the result to be that of an uninterrupted one; names as they are typed. (And
 * the interval of a block optimizer, once it is worked out.)
 */
export function settingsOf(
  options: Options,
  modelFolder: string,
  data: PreparedData,
  settings: TrainOptions,
): Fingerprint {
  const table: Readonly<Record<OptionName, Option<unknown>>> = optionTable;
  const decisive = (Object.keys(options) as OptionName[]).filter((name) => !table[name].mayChange);
  const steps = Object.entries(settings).filter(([name]) => name !== 'saveSteps' && name !== 'keptBytes');
  const named = { ...Object.fromEntries(decisive.map((name) => [name, options[name]])), ...Object.fromEntries(steps) };
  return {
    dataset_sha256: data.sha256,
    train_examples: data.train.length,
    ...Object.fromEntries(Object.entries(named).map(([name, value]) => [typedName(name as OptionName), value])),
    ...(methods[options.finetuningType].leavesBase ? { base_model_sha256: baseDigest(modelFolder) } : {}),
  };
}
