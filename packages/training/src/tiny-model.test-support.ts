import { createBatches, createRandom, ignoreIndex, type BatchOptions, type Example } from '@blockwise/loaders';
import {
  createLlama,
  llama_defaults,
  llamaWeightShapes,
  type ComputeDtype,
  type Llama,
  type LlamaConfig,
} from '@blockwise/model-zoo';
import { elementCount, takeRaw, tf } from '@blockwise/tensorflow';
import type { StepRecord, TrainOptions } from './train.ts';

/** For tests only: a small Llama with random weights, and sequences to learn. */

export const vocabulary = 32;

/** Two layers of hidden size 16 with grouped queries. The same seed gives the same values in every dtype, up to rounding. */
export function tinyModel(
  settings: Partial<LlamaConfig> = {},
  dtype: 'float32' | 'bfloat16' | 'float16' = 'float32',
  options: { computeDtype?: ComputeDtype } = {},
): Llama {
  const config: LlamaConfig = {
    ...llama_defaults,
    ...{ vocab_size: vocabulary, hidden_size: 16, intermediate_size: 24, num_hidden_layers: 2 },
    ...{ num_attention_heads: 4, num_key_value_heads: 2, head_dim: 4, max_position_embeddings: 128 },
    ...settings,
  };
  const random = createRandom(1);
  const weights = [...llamaWeightShapes(config)].map(([name, shape]) => {
    const values = Float32Array.from({ length: elementCount(shape) }, () => {
      // Sums of bfloat16 steps of 1/64: exact in all three dtypes.
      const step = (random.below(49) - 24) / 64;
      return name.includes('norm') ? 1 + step : step;
    });
    return [name, takeRaw(tf.tensor(values, [...shape]), dtype)] as const;
  });
  return createLlama(config, new Map(weights), options);
}

/** `count` examples of 4 to 12 tokens, the first few of each without labels. */
export function tinyExamples(count: number, seed = 2): Example[] {
  const { below } = createRandom(seed);
  return Array.from({ length: count }, () => {
    const inputIds = Int32Array.from({ length: 4 + below(9) }, () => below(vocabulary));
    const prompt = 1 + below(3);
    return { inputIds, labels: inputIds.map((id, i) => (i < prompt ? ignoreIndex : id)) };
  });
}

export function tinyBatches(examples: readonly Example[], options: Partial<BatchOptions> = {}) {
  return createBatches(examples, { batchSize: 2, padId: 0, cutoffLen: 12, bucketCount: 2, ...options });
}

export const trainOptions = (options: Partial<TrainOptions> = {}): TrainOptions => ({
  ...{ totalSteps: 10, gradientAccumulationSteps: 1, learningRate: 1e-2, lrSchedulerType: 'constant', warmupSteps: 0 },
  ...{ maxGradNorm: 0, evalSteps: 0, saveSteps: 0 },
  ...options,
});

export const lossesOf = (steps: readonly StepRecord[]): number[] => steps.map(({ loss }) => loss);

/** A weight as float32 values. */
export function valuesOf(model: Llama, name: string): Float32Array {
  const parameter = model.parameters.get(name)!;
  const bytes = parameter.bytes();
  if (parameter.storageDtype === 'float32') return new Float32Array(bytes.slice().buffer);
  const halves = new Uint16Array(bytes.slice().buffer);
  return new Float32Array(Uint32Array.from(halves, (half) => half << 16).buffer);
}

export function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) throw new Error(`${a.length} numbers beside ${b.length}`);
  return Array.from(a).reduce((most, x, i) => Math.max(most, Math.abs(x - b[i])), 0);
}
