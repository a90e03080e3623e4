import { createBatches } from '@blockwise/loaders';
import { createLlama, openLlama, type Llama } from '@blockwise/model-zoo';
import { RawTensor } from '@blockwise/tensorflow';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { dataFolder } from './stories-data.test-support.ts';

/** stories260K in float32, its head tied as it is or a copy of the embedding of its own. */
export function openStories(tied: boolean): Llama {
  const { model } = openLlama(join(dataFolder, 'models/stories260K'), { dtype: 'float32' });
  if (tied) return model;
  const weights = new Map<string, RawTensor>();
  for (const [name, { shape, bytes }] of [...model.parameters].map(
    ([name, p]) => [name, { shape: p.shape, bytes: p.bytes() }] as const,
  )) {
    weights.set(name, RawTensor.fromBytes(bytes, shape, 'float32'));
    if (name === 'model.embed_tokens.weight')
      weights.set('lm_head.weight', RawTensor.fromBytes(bytes, shape, 'float32'));
  }
  model.dispose();
  return createLlama({ ...model.config, tie_word_embeddings: false }, weights);
}

/** The rows that all golden trajectories were made with, padding included: two to a batch, in their order. */
export function goldenBatches() {
  const text = readFileSync(new URL('golden/badam-trajectories.json', import.meta.url), 'utf8');
  const { batches } = JSON.parse(text) as { batches: { inputIds: number[][]; labels: number[][] }[] };
  const examples = batches.flatMap(({ inputIds, labels }) =>
    inputIds.map((ids, row) => ({ inputIds: Int32Array.from(ids), labels: Int32Array.from(labels[row]) })),
  );
  return createBatches(examples, { batchSize: 2, padId: 0, cutoffLen: examples[0].inputIds.length });
}
