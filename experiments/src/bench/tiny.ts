import { llama_defaults, type LlamaConfig } from '@blockwise/model-zoo';

/** BLOCKWISE_BENCH_TINY=1: every benchmark runs in seconds on small shapes, to see that it works. Its figures mean nothing. */
export const tiny = process.env.BLOCKWISE_BENCH_TINY === '1';

/** The model of tiny runs. */
export const tinyConfig: LlamaConfig = {
  ...llama_defaults,
  vocab_size: 512,
  hidden_size: 64,
  intermediate_size: 172,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 16,
};
