import {
  createBatches,
  loadTemplate,
  loadTokenizer,
  resolveDatasetPath,
  splitDataset,
  tokeniseDataset,
  type BatchSource,
  type Example,
  type Template,
  type Tokenizer,
} from '@blockwise/loaders';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { embedded, repository } from './embedded.ts';
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

/** Finds, reads, tokenises, splits and batches the dataset that the options name. */
export async function prepareData(
  options: Options,
  modelFolder: string,
  note: (line: string) => void,
): Promise<PreparedData> {
  const tokenizer = loadTokenizer(modelFolder);
  const template = loadTemplate(options.template, tokenizer);
  const cacheDir = options.cacheDir ?? join(repository, 'datasets/cache');
  const isEmbedded = options.dataset === 'embedded';
  const hub = options.cacheDir ? { cacheDir: join(options.cacheDir, 'hub') } : {};
  const files = isEmbedded ? [embedded.dataset] : await resolveDatasetPath(options.dataset, hub);
  const set = await tokeniseDataset({
    ...{ files, tokenizer, template: options.template, cutoffLen: options.cutoffLen, stage: options.stage },
    ...{ cacheDir: join(cacheDir, 'tokenised'), overwriteCache: options.overwriteCache },
  });
  const examples = options.maxSamples === null ? set.examples : set.examples.slice(0, options.maxSamples);
  note(
    `data: ${files.join(', ')}: ${examples.length} of ${set.records} records` +
      `${set.truncated > 0 ? `, ${set.truncated} cut to ${options.cutoffLen} tokens` : ''}` +
      `${set.dropped > 0 ? `, ${set.dropped} dropped: nothing to learn within ${options.cutoffLen} tokens` : ''}` +
      `${set.fromCache ? ' (tokenised before)' : ''}`,
  );
  const { train, validation } = splitDataset(examples, options.valSize, options.seed);
  const padId = tokenizer.pad?.id ?? 0;
  const batches = createBatches(train, {
    ...{ batchSize: options.perDeviceTrainBatchSize, padId, shuffle: true, seed: options.seed },
    ...{
      groupByLength: options.groupByLength,
      packing: options.packing ? 'packed' : 'none',
      cutoffLen: options.cutoffLen,
    },
  });
  const validationBatches =
    validation.length > 0
      ? createBatches(validation, {
          batchSize: options.perDeviceEvalBatchSize,
          padId,
          groupByLength: true,
          cutoffLen: options.cutoffLen,
        })
      : undefined;
  const labelTokens = train.reduce(
    (sum, { labels }) => sum + labels.reduce((count, label) => count + (label === -100 ? 0 : 1), 0),
    0,
  );
  return {
    tokenizer,
    template,
    files,
    train,
    validation,
    batches,
    validationBatches,
    sha256: digest(examples),
    labelTokens,
  };
}

function digest(examples: readonly Example[]): string {
  const hash = createHash('sha256');
  for (const { inputIds, labels } of examples) hash.update(inputIds).update(labels);
  return hash.digest('hex');
}

/** An example's prompt: its tokens up to the first that is learned (of plain text: its beginning). */
export function promptOf({ inputIds, labels }: Example): number[] {
  const first = labels.findIndex((label) => label !== -100);
  return Array.from(inputIds.subarray(0, first > 0 ? first : Math.min(16, inputIds.length)));
}
