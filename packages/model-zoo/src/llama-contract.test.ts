import { stagedModelContract } from './staged-model-contract.test-support.ts';
import { tinyLlama } from './tiny-llama.test-support.ts';
import type { LlamaConfig } from './config.ts';

const configurations: Record<string, Partial<LlamaConfig>> = {
  'Llama with grouped queries and an untied head': {},
  'Llama with a tied head and llama3 rotary scaling': {
    tie_word_embeddings: true,
    num_key_value_heads: 4,
    rope_parameters: {
      rope_type: 'llama3',
      rope_theta: 500,
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 32,
    },
  },
  'Llama with biases, one key-value head and its own head_dim': {
    attention_bias: true,
    mlp_bias: true,
    num_key_value_heads: 1,
    head_dim: 6,
    num_hidden_layers: 3,
  },
};

for (const [name, settings] of Object.entries(configurations)) {
  stagedModelContract(name, {
    create: () => tinyLlama(settings),
    vocabularySize: 24,
    hiddenSize: 16,
    outputs: 24,
  });
}
