import { createLlama, llama_defaults, llamaWeightShapes, type Llama, type LlamaConfig } from '@blockwise/model-zoo';
import { elementCount, takeRaw, tf } from '@blockwise/tensorflow';

/** For tests only: a small Llama whose weights follow a formula. */
export function tinyModel(settings: Partial<LlamaConfig> = {}, dtype: 'float32' | 'bfloat16' = 'float32'): Llama {
  const config: LlamaConfig = {
    ...llama_defaults,
    ...{ vocab_size: 24, hidden_size: 16, intermediate_size: 24, num_hidden_layers: 2 },
    ...{ num_attention_heads: 4, num_key_value_heads: 2, head_dim: 4, max_position_embeddings: 64 },
    ...settings,
  };
  const weights = [...llamaWeightShapes(config)].map(([name, shape], n) => {
    const values = Float32Array.from({ length: elementCount(shape) }, (_, i) => 0.4 * Math.sin(12.9898 * i + n) + (name.includes('norm') ? 1 : 0)); // prettier-ignore
    return [name, takeRaw(tf.tensor(values, [...shape]), dtype)] as const;
  });
  return createLlama(config, new Map(weights));
}
