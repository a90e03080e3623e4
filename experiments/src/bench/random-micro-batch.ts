import type { Random } from '@blockwise/loaders';
import type { Llama, LlamaConfig } from '@blockwise/model-zoo';
import { createMicroBatch, type MicroBatch } from '@blockwise/training';

/** Rows of random tokens that are all predicted, as tensors; the caller's. */
export function randomMicroBatch(
  model: Llama,
  { vocab_size }: LlamaConfig,
  batchSize: number,
  length: number,
  random: Random,
): MicroBatch {
  const tokens = batchSize * length;
  const inputIds = Int32Array.from({ length: tokens }, () => random.uint32() % vocab_size);
  const positionIds = Int32Array.from({ length: tokens }, (_, i) => i % length);
  return createMicroBatch(model, {
    ...{ inputIds, labels: inputIds, positionIds, batchSize, length },
  });
}
