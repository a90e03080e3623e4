import { UserError } from '@blockwise/errors';
import {
  createBatches,
  ignoreIndex,
  loadTemplate,
  loadTokenizer,
  resolveDataset,
  splitDataset,
  tokeniseDataset,
  type BatchSource,
  type DatasetFiles,
  type Example,
  type Template,
  type TokenisedDataset,
  type Tokenizer,
} from '@blockwise/loaders';
import { readJsonObject } from '@blockwise/model-zoo';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { embedded, repository } from './embedded.ts';
import { hubOptions } from './hub-options.ts';
import type { Options } from './options.ts';

/** The data of a run: what is trained on and validated with, in batches. */
export interface PreparedData {
  tokenizer: Tokenizer;
  template: Template;
  files: string[];
  train: Example[];
  validation: Example[];
  batches: BatchSource;
  validationBatches: BatchSource | undefined;
  /** Of the tokenised examples: what a resumed run must find again. */
  sha256: string;
  labelTokens: number;
}

/**
 * Finds, reads, tokenises, splits and batches the dataset that the options name.
 * @throws UserError for data and a tokenizer that cannot be used, and for tokens that the model does not have
 */
export async function prepareData(
  options: Options,
  modelFolder: string,
  note: (line: string) => void,
): Promise<PreparedData> {
  const tokenizer = loadTokenizer(modelFolder);
  const templateName = options.template ?? (tokenizer.chatTemplate === undefined ? 'default' : 'tokenizer');
  const template = loadTemplate(templateName, tokenizer);
  const cacheDir = options.cacheDir ?? join(repository, 'datasets/cache');
  const where = { ...hubOptions(options, note), datasetDir: options.datasetDir ?? undefined };
  const datasets: DatasetFiles[] = [];
  for (const name of options.dataset.split(','))
    datasets.push(name === 'embedded' ? { files: [embedded.dataset] } : await resolveDataset(name, where));
  const files = datasets.flatMap(({ files }) => files);
  const set = await tokeniseDataset({
    ...{ files: datasets, tokenizer, template: templateName, cutoffLen: options.cutoffLen, stage: options.stage },
    ...{ cacheDir: join(cacheDir, 'tokenised'), overwriteCache: options.overwriteCache },
    ...(options.maxSamples === null ? {} : { maxSamples: options.maxSamples }),
  });
  const { examples } = set;
  if (options.template === null) note(`template: ${templateName}`);
  note(`data: ${files.join(', ')}: ${describeSet(set, options.cutoffLen)}`);
  const { train, validation } = splitDataset(examples, options.valSize, options.seed);
  // NaN, beyond which nothing lies, where config.json does not say.
  const vocabulary = Number(readJsonObject(join(modelFolder, 'config.json'), 2 ** 20).vocab_size);
  needTokens(examples, vocabulary, tokenizer);
  // A padding token that was added for the tokenizer alone has no row in the embedding. Padding is never looked at: any other does.
  const pad = tokenizer.pad?.id ?? 0;
  const padId = pad < vocabulary ? pad : 0;
  const { cutoffLen, groupByLength, gradientAccumulationSteps, seed } = options;
  const batches = createBatches(train, {
    ...{ batchSize: options.perDeviceTrainBatchSize, padId, shuffle: true, seed, cutoffLen },
    ...{ groupByLength, gradientAccumulationSteps, packing: options.packing ? 'packed' : 'none' },
  });
  const evaluated = { batchSize: options.perDeviceEvalBatchSize, padId, groupByLength: true, cutoffLen };
  const validationBatches = validation.length > 0 ? createBatches(validation, evaluated) : undefined;
  return {
    ...{ tokenizer, template, files, train, validation, batches, validationBatches },
    ...{ sha256: digest(examples), labelTokens: labelTokensOf(train) },
  };
}

/** What became of a dataset's records, in words. */
function describeSet(set: TokenisedDataset, cutoffLen: number): string {
  const first = set.firstSkipped ? ` (the first: ${set.firstSkipped})` : '';
  return [
    `${set.examples.length} examples from ${set.records} records`,
    set.truncated > 0 ? `, ${set.truncated} cut to ${cutoffLen} tokens` : '',
    set.skipped > 0 ? `, ${set.skipped} left out: no answer, or turns that do not alternate${first}` : '',
    set.dropped > 0 ? `, ${set.dropped} dropped: nothing to learn within ${cutoffLen} tokens` : '',
    set.fromCache ? ' (tokenised before)' : '',
  ].join('');
}

const labelTokensOf = (examples: readonly Example[]) =>
  examples.reduce((sum, { labels }) => sum + labels.filter((label) => label !== ignoreIndex).length, 0);

/** The model must have every token of the examples. */
function needTokens(examples: readonly Example[], vocabulary: number, tokenizer: Tokenizer): void {
  for (const { inputIds, labels } of examples) {
    const outside = inputIds.find((id) => id >= vocabulary) ?? labels.find((id) => id >= vocabulary);
    if (outside === undefined) continue;
    throw new UserError(
      `${tokenizer.folder}: the tokenizer makes token ${outside} (${JSON.stringify(tokenizer.decode([outside]))}) of the data, and the model ` +
        `has ${vocabulary} (vocab_size in config.json): take the model's own tokenizer, or resize the model's embedding`,
    );
  }
}

function digest(examples: readonly Example[]): string {
  const hash = createHash('sha256');
  for (const { inputIds, labels } of examples) hash.update(inputIds).update(labels);
  return hash.digest('hex');
}

/** An example's prompt: its tokens up to the first that is learned (of plain text: its beginning). */
export function promptOf({ inputIds, labels }: Example): number[] {
  const first = labels.findIndex((label) => label !== ignoreIndex);
  return Array.from(inputIds.subarray(0, first > 0 ? first : Math.min(16, inputIds.length)));
}
