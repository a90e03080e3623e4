import type { Stage } from '@blockwise/model-zoo';
import { tf } from '@blockwise/tensorflow';
import type { MicroBatch } from './micro-batch.ts';

/** The head works on the rows that predict something, a piece of them after the other. */

/** Logits of one call of the head take at most this many bytes: long batches and large vocabularies go through it in pieces. */
const maximumLogitBytes = 32 * 2 ** 20;
/** Rows of a piece are a multiple of this, so that few shapes are compiled. */
const rowMultiple = 64;
const maximumRows = 1024;

/** The most rows of a piece: a multiple of 64 whose logits stay below 32 MiB, at least 64. */
export function rowsPerPiece(head: Stage): number {
  const vocabulary = Math.max(...[...head.parameters.values()].map(({ shape }) => (shape.length === 2 ? shape[0] : 1)));
  const fitting = Math.floor(maximumLogitBytes / (4 * vocabulary * rowMultiple)) * rowMultiple;
  return Math.min(Math.max(fitting, rowMultiple), maximumRows);
}

/** Rows of a batch that go through the head together; the receiver's. */
export interface Piece {
  /** float32 [R, H] */
  readonly rows: tf.Tensor;
  /** int32 [R] */
  readonly targets: tf.Tensor;
  /** float32 [R] */
  readonly weights: tf.Tensor;
}

/**
 * Predicting rows in pieces of few different sizes, all of rowsPerPiece() but the last, which is filled up to a multiple of 64.
 * @param hidden what the head is given: float32 [N, H]
 * @param weight of each row; those that only fill up weigh 0
 */
export function* headPieces(
  head: Stage,
  { rows, targets }: MicroBatch,
  hidden: tf.Tensor,
  weight: number,
): Generator<Piece> {
  const size = rowsPerPiece(head);
  const count = rows.length;
  const filled = Math.ceil(count / rowMultiple) * rowMultiple;
  const [allRows, allTargets] = [rows, targets].map((values) => {
    const padded = new Int32Array(filled);
    padded.set(values);
    return padded;
  });
  const weights = new Float32Array(filled).fill(weight, 0, count);
  const gathered = tf.tidy(() => tf.gather(hidden, tf.tensor1d(allRows, 'int32')) as tf.Tensor2D);
  try {
    for (let from = 0; from < filled; from += size) {
      const to = Math.min(from + size, filled);
      yield {
        rows: tf.slice(gathered, from, to - from),
        targets: tf.tensor1d(allTargets.subarray(from, to), 'int32'),
        weights: tf.tensor1d(weights.subarray(from, to)),
      };
    }
  } finally {
    gathered.dispose();
  }
}

/**
 * Gradients of gathered rows (of each piece, float32 [R, H]) in the places of these rows among all, as float32 [N, H]; consumes them.
 * Each row was gathered once, so that this is a gathering too, with a row of zeros for all others.
 */
export function scatterRows(pieces: tf.Tensor[], rows: Int32Array, { shape: [count, width] }: tf.Tensor): tf.Tensor {
  return tf.tidy(() => {
    const all = tf.concat([...pieces, tf.zeros([1, width!])]);
    tf.dispose(pieces);
    const sources = new Int32Array(count).fill(all.shape[0] - 1);
    rows.forEach((row, i) => (sources[row] = i));
    return tf.gather(all, tf.tensor1d(sources, 'int32'));
  });
}
