import { ignoreIndex, type Batch } from '@blockwise/loaders';
import type { BatchLayout, StagedModel } from '@blockwise/model-zoo';
import { tf } from '@blockwise/tensorflow';

/** A batch as tensors, and which rows of the last hidden state predict a label. Owned by its maker; see disposeMicroBatch(). */
export interface MicroBatch {
  /** int32 [N], N = batch size x length. */
  readonly ids: tf.Tensor1D;
  readonly context: readonly tf.Tensor[];
  /** Rows whose next token has a label, ascending: only these go through the head. */
  readonly rows: Int32Array;
  /** The labels of those rows. */
  readonly targets: Int32Array;
}

/**
 * The rows that predict: position t of a sequence is asked for label t + 1, so a row's last position predicts nothing, nor does one whose
 * next label is -100.
 */
export function predictingRows({ labels, batchSize, length }: Pick<Batch, 'labels' | 'batchSize' | 'length'>) {
  const rows: number[] = [];
  const targets: number[] = [];
  for (let row = 0; row < batchSize * length; row++) {
    if ((row + 1) % length === 0 || labels[row + 1] === ignoreIndex) continue;
    rows.push(row);
    targets.push(labels[row + 1]);
  }
  return { rows: Int32Array.from(rows), targets: Int32Array.from(targets) };
}

/** Puts a batch into tensors. */
export function createMicroBatch(
  model: StagedModel,
  batch: BatchLayout & Pick<Batch, 'inputIds' | 'labels'>,
): MicroBatch {
  const context = model.context(batch);
  return { ids: tf.tensor1d(batch.inputIds, 'int32'), context, ...predictingRows(batch) };
}

/** Frees the tensors of createMicroBatch(). */
export function disposeMicroBatch({ ids, context }: MicroBatch): void {
  tf.dispose([ids, ...context]);
}
