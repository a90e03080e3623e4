import {
  createBatches,
  loadTokenizer,
  readRecords,
  splitDataset,
  type BatchSource,
  type Example,
} from '@blockwise/loaders';

/** Text to train on and to measure with. */
export interface TextData {
  readonly vocabularySize: number;
  readonly train: Example[];
  readonly validation: Example[];
  /** Packed rows of `length` tokens; shuffled for training. */
  batches(examples: readonly Example[], batchSize: number): BatchSource;
}

/** Which part of a dataset is read, and in what rows. */
export interface TextOptions {
  /** Records taken. */
  count: number;
  /** Tokens in a row. */
  length: number;
  seed: number;
  /** Of an instruction, all or the answer alone. */
  part?: 'all' | 'answers';
}

/**
 * Records as plain text, one after the other in rows of `length` tokens, every token of which is predicted; a tenth is set aside.
 * @param tokenizerFolder a model folder
 * @param dataset a file of instructions or texts
 */
export async function readText(
  tokenizerFolder: string,
  dataset: string,
  { count, length, seed, part = 'all' }: TextOptions,
): Promise<TextData> {
  const tokenizer = loadTokenizer(tokenizerFolder);
  const set = await readRecords(dataset);
  const texts =
    set.kind === 'texts'
      ? set.records.map(({ text }) => text)
      : set.records.map(({ messages }) =>
          messages
            .filter(({ role }) => part === 'all' || role === 'assistant')
            .map(({ content }) => content)
            .join('\n'),
        );
  const end = tokenizer.eos ? [tokenizer.eos.id] : [];
  const examples = texts.slice(0, count).map((text): Example => {
    const ids = Int32Array.from([...tokenizer.encode(text), ...end].slice(0, length));
    return { inputIds: ids, labels: ids };
  });
  const padId = tokenizer.pad?.id ?? 0;
  return {
    vocabularySize: tokenizer.vocabSize,
    ...splitDataset(examples, 0.1, seed),
    batches: (from, batchSize) =>
      createBatches(from, { batchSize, padId, packing: 'packed', cutoffLen: length, shuffle: true, seed }),
  };
}
