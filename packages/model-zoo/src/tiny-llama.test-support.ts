import { elementCount, takeRaw, tf, type RawTensor } from '@blockwise/tensorflow';
import { llama_defaults, llamaWeightShapes, type LlamaConfig, type WeightDtype } from './config.ts';
import { createLlama, type Llama } from './llama.ts';
import { seededRandom } from './random.ts';

/** For tests only: small Llamas with random weights. */

/** Two layers, grouped queries, an untied head; changed by `settings`. */
export function tinyLlamaConfig(settings: Partial<LlamaConfig> = {}): LlamaConfig {
  return {
    ...llama_defaults,
    vocab_size: 24,
    hidden_size: 16,
    intermediate_size: 10,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 4,
    max_position_embeddings: 64,
    ...settings,
  };
}

/** float32 values [size] of roughly standard normal distribution: the sum of twelve uniform numbers, less six. */
export function noise(size: number, seed: number): Float32Array {
  const random = seededRandom(seed);
  return Float32Array.from({ length: size }, () => Array.from({ length: 12 }, random).reduce((sum, x) => sum + x, -6));
}

/** Weights large enough for attention and norms to matter (with transformers' 0.02, errors hide). */
export function randomWeights(config: LlamaConfig, dtype: WeightDtype = 'float32', seed = 1): Map<string, RawTensor> {
  const weights = [...llamaWeightShapes(config)].map(([name, shape], i) => {
    const values = noise(elementCount(shape), 1000 * seed + i).map((x) =>
      name.includes('norm') ? 1 + 0.3 * x : 0.35 * x,
    );
    return [name, takeRaw(tf.tensor(values, [...shape]), dtype)] as const;
  });
  return new Map(weights);
}

/** A Llama of tinyLlamaConfig() and randomWeights(). */
export function tinyLlama(settings: Partial<LlamaConfig> = {}, dtype: WeightDtype = 'float32', seed = 1): Llama {
  const config = tinyLlamaConfig(settings);
  return createLlama(config, randomWeights(config, dtype, seed));
}
