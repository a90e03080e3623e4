import { UserError } from '@blockwise/errors';
import { bucketLengths } from './bucket-lengths.ts';
import { epochOrder } from './epoch-order.ts';
import { ignoreIndex } from './examples.ts';
import type { Example } from './examples.ts';
import { packExamples } from './packing.ts';
import { createRandom, shuffle } from './random.ts';

/** B rows of T positions, row after row, padded on the right. B: `batchSize`, T: `length`. */
export interface Batch {
  /** B x T token ids; the padding id where there is no token. */
  readonly inputIds: Int32Array;
  /** B x T labels, not shifted (the model predicts label t + 1 at position t); -100 where nothing is learnt. */
  readonly labels: Int32Array;
  /** B x T positions, counted from 0 within each example; 0 at padding. */
  readonly positionIds: Int32Array;
  /**
   * B x T, only when packing: 1, 2 ... the example within its row, 0 at padding. Attention stays inside equal
   * numbers.
   */
  readonly segmentIds: Int32Array | undefined;
  readonly batchSize: number;
  readonly length: number;
  /** Tokens that are not padding. */
  readonly tokens: number;
  /** Labels the loss sees: those not -100, save at a row's first position, which nothing predicts. */
  readonly labelTokens: number;
  /** The examples in the batch, in order, as indices into the examples given. */
  readonly exampleIndices: readonly number[];
}

/** Where a run stands in its data: epochs completed, and batches taken of the present one. */
export interface BatchState {
  readonly epoch: number;
  readonly position: number;
}

/** How examples become batches. */
export interface BatchOptions {
  /** Rows in a batch. */
  batchSize: number;
  /** The token id of padding. */
  padId: number;
  /** Visit the examples in an order drawn anew each epoch from (seed, epoch). Default false. */
  shuffle?: boolean;
  seed?: number;
  /** Put examples of like length together (transformers' `group_by_length`). Default false. */
  groupByLength?: boolean;
  /** Batches whose gradients make one step: with groupByLength they are of like length too. Default 1. */
  gradientAccumulationSteps?: number;
  /** `packed`: several examples share a row of `cutoffLen`, each seeing itself alone. Default `none`. */
  packing?: 'none' | 'packed';
  /** The longest row. Default: the longest example. */
  cutoffLen?: number;
  /** Leave out the last batch of an epoch when it is not full. Default false. */
  dropLast?: boolean;
  /** How many different row lengths there may be, without packing. Default 6. */
  bucketCount?: number;
}

/** Endless batches, epoch after epoch, whose position can be saved and restored. */
export interface BatchSource {
  readonly batchesPerEpoch: number;
  /** The row lengths that occur, ascending. */
  readonly lengths: readonly number[];
  /** The next batch; after the last one of an epoch comes the first of the next. */
  next(): Batch;
  state(): BatchState;
  /**
   * Goes on exactly where `state` was taken from a source of the same examples and options.
   * @throws UserError when the state cannot be of this source.
   */
  restore(state: BatchState): void;
  /** The batches of one epoch from its start, apart from the position of `next` (for evaluation: without shuffling). */
  epochBatches(epoch?: number): Generator<Batch, void, undefined>;
}

/**
 * Makes batches of examples.
 * @throws UserError for options out of range, no examples, or examples longer than `cutoffLen` or with more or fewer
 *   labels than tokens.
 */
export function createBatches(examples: readonly Example[], options: BatchOptions): BatchSource {
  checkOptions(examples, options);
  const { batchSize, seed = 0, groupByLength = false, dropLast = false } = options;
  const stepSize = batchSize * (options.gradientAccumulationSteps ?? 1);
  const { rows, rowLengths, lengths } = planRows(examples, options);
  const batchesPerEpoch = dropLast ? Math.floor(rows.length / batchSize) : Math.ceil(rows.length / batchSize);
  if (batchesPerEpoch === 0) {
    throw new UserError(
      `dataloader_drop_last: ${rows.length} rows make no full batch of ${batchSize}; lower the batch size.`,
    );
  }

  const orderOf = (epoch: number): Int32Array =>
    epochOrder(rowLengths, { epoch, seed, stepSize, shuffle: options.shuffle ?? false, groupByLength });
  const batchAt = (order: Int32Array, position: number): Batch => {
    const chosen = Array.from(order.subarray(position * batchSize, (position + 1) * batchSize));
    const longest = Math.max(...chosen.map((row) => rowLengths[row]!));
    const length = lengths.find((bucket) => bucket >= longest)!;
    return fillBatch(
      chosen.map((row) => rows[row]!),
      examples,
      { length, padId: options.padId, packed: options.packing === 'packed' },
    );
  };

  let epoch = 0;
  let position = 0;
  let order = orderOf(0);
  const moveTo = (state: BatchState): void => {
    if (state.epoch !== epoch) order = orderOf(state.epoch);
    ({ epoch, position } = state);
  };
  return {
    batchesPerEpoch,
    lengths,
    next() {
      const batch = batchAt(order, position);
      moveTo(position + 1 < batchesPerEpoch ? { epoch, position: position + 1 } : { epoch: epoch + 1, position: 0 });
      return batch;
    },
    state: () => ({ epoch, position }),
    restore(state) {
      const valid = [state.epoch, state.position].every((value) => Number.isSafeInteger(value) && value >= 0);
      if (!valid || state.position >= batchesPerEpoch) {
        throw new UserError(
          `resume: the data position is epoch ${state.epoch}, batch ${state.position}, but an epoch has ${batchesPerEpoch} batches ` +
            'here; resume with the dataset, cutoff_len, val_size and batch size of the interrupted run.',
        );
      }
      moveTo(state);
    },
    *epochBatches(of = 0) {
      const fixed = orderOf(of);
      for (let i = 0; i < batchesPerEpoch; i++) yield batchAt(fixed, i);
    },
  };
}

/**
 * Which examples share a row (one each, unless packing), the tokens of each row, and the lengths rows are padded to.
 */
function planRows(examples: readonly Example[], options: BatchOptions) {
  const { cutoffLen, batchSize, groupByLength = false, shuffle: shuffled = false, seed = 0 } = options;
  const packed = options.packing === 'packed';
  const exampleLengths = examples.map(({ inputIds }) => inputIds.length);
  const capacity = cutoffLen ?? exampleLengths.reduce((a, b) => Math.max(a, b), 0);
  const rows = packed
    ? packExamples(exampleLengths, capacity, packingOrder(examples.length, shuffled, seed))
    : examples.map((_, i) => [i]);
  const rowLengths = rows.map((row) => row.reduce((sum, i) => sum + exampleLengths[i]!, 0));
  const lengths = bucketLengths(rowLengths, {
    // Packed rows are nearly full: one length serves them all.
    count: packed ? 1 : (options.bucketCount ?? 6),
    together: groupByLength ? 1 : batchSize,
    ...(cutoffLen === undefined ? {} : { maxLength: cutoffLen }),
  });
  return { rows, rowLengths, lengths };
}

/** Rows of examples as one padded batch. */
function fillBatch(
  rows: readonly (readonly number[])[],
  examples: readonly Example[],
  { length, padId, packed }: { length: number; padId: number; packed: boolean },
): Batch {
  const size = rows.length * length;
  const inputIds = new Int32Array(size).fill(padId);
  const labels = new Int32Array(size).fill(ignoreIndex);
  const positionIds = new Int32Array(size);
  const segmentIds = packed ? new Int32Array(size) : undefined;
  let tokens = 0;
  let labelTokens = 0;
  for (const [b, row] of rows.entries()) {
    let at = b * length;
    for (const [segment, index] of row.entries()) {
      const example = examples[index]!;
      const count = example.inputIds.length;
      inputIds.set(example.inputIds, at);
      labels.set(example.labels, at);
      // What precedes an example in its row is another example (or nothing), from which it cannot be predicted.
      if (packed) labels[at] = ignoreIndex;
      segmentIds?.fill(segment + 1, at, at + count);
      for (let t = 0; t < count; t++) {
        positionIds[at + t] = t;
        if (t > 0 && example.labels[t] !== ignoreIndex) labelTokens += 1;
      }
      at += count;
      tokens += count;
    }
  }
  return {
    inputIds,
    labels,
    positionIds,
    segmentIds,
    batchSize: rows.length,
    length,
    tokens,
    labelTokens,
    exampleIndices: rows.flat(),
  };
}

/** Which of several examples of one length are packed first: by the seed when shuffling, else as they lie. */
function packingOrder(count: number, shuffled: boolean, seed: number): Int32Array {
  const order = Int32Array.from({ length: count }, (_, i) => i);
  // A stream far from the epochs' own, so that rows and their order are drawn independently.
  return shuffled ? shuffle(order, createRandom(seed, 2 ** 52 + 1)) : order;
}

function checkOptions(examples: readonly Example[], options: BatchOptions): void {
  const { batchSize, cutoffLen, bucketCount, seed, padId } = options;
  const counts = { per_device_train_batch_size: batchSize, cutoff_len: cutoffLen, bucket_count: bucketCount };
  const problems = Object.entries(counts)
    .filter(([, value]) => value !== undefined && !(Number.isInteger(value) && value >= 1))
    .map(([name, value]) => `${name}: found ${value}; expected a whole number, at least 1.`);
  for (const [name, value] of Object.entries({ seed: seed ?? 0, pad_token_id: padId })) {
    if (!(Number.isSafeInteger(value) && value >= 0)) {
      problems.push(`${name}: found ${value}; expected a whole number, at least 0.`);
    }
  }
  if (examples.length === 0) problems.push('dataset: no example to make batches of.');
  const tooLong = examples.findIndex(({ inputIds }) => inputIds.length > (cutoffLen ?? Infinity));
  if (tooLong >= 0) {
    problems.push(
      `cutoff_len: example ${tooLong} has ${examples[tooLong]!.inputIds.length} tokens, more than ${cutoffLen}; tokenise with this cutoff_len.`,
    );
  }
  const uneven = examples.findIndex(({ inputIds, labels }) => labels.length !== inputIds.length);
  if (uneven >= 0) {
    const { inputIds, labels } = examples[uneven]!;
    problems.push(
      `dataset: example ${uneven} has ${inputIds.length} inputIds and ${labels.length} labels; each token needs one label, ${ignoreIndex} where nothing is learnt.`,
    );
  }
  if (problems.length > 0) throw new UserError(problems.join('\n'));
}
