import { UserError } from '@blockwise/errors';
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { join } from 'node:path';
import { readExamples, writeExamples } from './example-cache.ts';
import { encodeConversation, encodeTexts, ignoreIndex } from './examples.ts';
import type { Example } from './examples.ts';
import { filesOf, readRecords, type DatasetSource, type RecordSet } from './records.ts';
import { loadTemplate } from './templates.ts';
import type { Template } from './templates.ts';
import type { Tokenizer } from './tokenizer.ts';

/** Part of the cache's key: raise it whenever the same inputs give other examples. */
const version = 3;
/** Records tokenised between two turns of the event loop. */
const slice = 64;

/** What is tokenised, how, and where the result is kept. */
export interface TokeniseOptions {
  /** Local datasets: .json, .jsonl, .parquet or .txt files. */
  files: readonly DatasetSource[];
  tokenizer: Tokenizer;
  /** A template's name (see `templateNames`). */
  template: string;
  /** The longest an example may be, in tokens. */
  cutoffLen: number;
  /** `sft` learns the answers of conversations, `pt` every token of texts. Default `sft`. */
  stage?: 'sft' | 'pt';
  /** Where tokenised datasets are kept; none are without it. */
  cacheDir?: string;
  /** Tokenise anew even if the cache has the result. */
  overwriteCache?: boolean;
  /** Take only so many records of each dataset, from its start. */
  maxSamples?: number;
}

/** Examples of a dataset, and what became of its records. */
export interface TokenisedDataset {
  examples: Example[];
  /** Records read. */
  records: number;
  /** Conversations left out: see readRecords(). */
  skipped: number;
  /** What was the matter with the first of them; a cached dataset does not say. */
  firstSkipped?: string;
  /** Examples dropped because the cutoff left no token to learn. */
  dropped: number;
  /** Examples that the cutoff shortened. */
  truncated: number;
  /** Tokens that the cutoff took (`pt`: the remainder of less than one example). */
  cutTokens: number;
  fromCache: boolean;
}

/**
 * Reads, renders and tokenises a dataset, or takes the result from the cache, whose key is the content that decides
 * it: the files' bytes, the tokenizer's files, template, cutoffLen, stage, maxSamples and a version. A damaged cache file is
 * built anew.
 * @throws UserError for unusable files and records, data that does not suit the stage, and when no example is left.
 */
export async function tokeniseDataset(options: TokeniseOptions): Promise<TokenisedDataset> {
  const { files, cutoffLen, cacheDir } = options;
  if (!Number.isInteger(cutoffLen) || cutoffLen < 2) {
    throw new UserError(`cutoff_len: found ${cutoffLen}; expected a whole number of tokens, at least 2.`);
  }
  const template = loadTemplate(options.template, options.tokenizer);
  const cacheFile = cacheDir === undefined ? undefined : join(cacheDir, `${await cacheKey(options)}.tokens`);
  if (cacheFile !== undefined && !options.overwriteCache) {
    const cached = readExamples(cacheFile);
    if (cached !== undefined) {
      return { examples: cached.examples, ...(cached.counts as Counts), fromCache: true };
    }
  }
  const set = await readRecords(files, { maxRecords: options.maxSamples });
  const { examples, ...counts } = await tokenise(set, template, options);
  if (cacheFile !== undefined) writeExamples(cacheFile, { examples, counts });
  const { first: firstSkipped } = set.skipped;
  return { examples, ...counts, ...(firstSkipped && { firstSkipped }), fromCache: false };
}

type Counts = Omit<TokenisedDataset, 'examples' | 'fromCache' | 'firstSkipped'>;

async function tokenise(
  set: RecordSet,
  template: Template,
  options: TokeniseOptions,
): Promise<Counts & { examples: Example[] }> {
  const { tokenizer, cutoffLen, stage = 'sft' } = options;
  const files = options.files.flatMap((source) => filesOf(source).files);
  const wanted = stage === 'pt' ? 'texts' : 'conversations';
  if (set.kind !== wanted) {
    const expected = stage === 'pt' ? 'records with a "text"' : 'instructions with answers (Alpaca or ShareGPT)';
    throw new UserError(`${files.join(', ')}: holds ${set.kind}; stage ${stage} needs ${expected}.`);
  }
  const each = async <T, R>(records: readonly T[], encode: (record: T) => R): Promise<R[]> => {
    const results: R[] = [];
    for (const record of records) {
      results.push(encode(record));
      // A long dataset must not keep signals waiting.
      if (results.length % slice === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    return results;
  };
  const counts: Counts = {
    records: set.records.length,
    skipped: set.skipped.count,
    dropped: 0,
    truncated: 0,
    cutTokens: 0,
  };
  if (set.kind === 'texts') {
    const texts = await each(set.records, ({ text }) => tokenizer.encode(text, { addSpecialTokens: false }));
    const { examples, cutTokens } = encodeTexts(tokenizer, template, texts, cutoffLen);
    if (examples.length === 0) {
      throw new UserError(
        `${files.join(', ')}: ${cutTokens} tokens in all, fewer than cutoff_len ${cutoffLen}, make no example; lower cutoff_len.`,
      );
    }
    return { ...counts, examples, cutTokens };
  }
  const encoded = await each(set.records, (conversation) => encodeConversation(template, conversation, cutoffLen));
  const kept = encoded.filter(({ example }) => hasLabels(example));
  counts.dropped = encoded.length - kept.length;
  if (kept.length === 0) {
    throw new UserError(
      `${files.join(', ')}: none of ${encoded.length} records has a token to learn within cutoff_len ${cutoffLen}; raise cutoff_len.`,
    );
  }
  counts.truncated = kept.filter(({ cutTokens }) => cutTokens > 0).length;
  counts.cutTokens = kept.reduce((sum, { cutTokens }) => sum + cutTokens, 0);
  return { ...counts, examples: kept.map(({ example }) => example) };
}

/** Whether the model's shift leaves a label: the first token of an example is never predicted. */
function hasLabels({ labels }: Example): boolean {
  return labels.some((label, t) => t > 0 && label !== ignoreIndex);
}

async function cacheKey(options: TokeniseOptions): Promise<string> {
  const { files, tokenizer, template, cutoffLen, stage = 'sft', maxSamples } = options;
  const key = createHash('sha256');
  key.update(JSON.stringify([version, tokenizer.fingerprint, template, cutoffLen, stage]));
  const datasets = files.map(filesOf);
  if (maxSamples !== undefined) key.update(JSON.stringify([maxSamples, datasets.map(({ files }) => files.length)]));
  if (datasets.some(({ layout }) => layout)) key.update(JSON.stringify(datasets.map(({ layout }) => layout ?? null)));
  for (const path of datasets.flatMap(({ files }) => files)) key.update(await fileDigest(path));
  return key.digest('hex');
}

async function fileDigest(path: string): Promise<Buffer> {
  const hash = createHash('sha256');
  try {
    for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  } catch (error) {
    throw new UserError(`${path}: cannot be read (${(error as Error).message}).`);
  }
  // The reader goes by the ending, so it belongs to the content.
  return hash.update(path.slice(path.lastIndexOf('.'))).digest();
}
