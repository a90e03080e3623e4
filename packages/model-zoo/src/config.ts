import { elementCount } from '@blockwise/tensorflow';

/** The element types a model's weights are stored in. */
export type WeightDtype = 'float32' | 'bfloat16' | 'float16';

/**
 * Rotary position embedding, in the form of transformers 5 (`rope_parameters`); older files' rope_theta and
 * rope_scaling are read into it.
 */
export type RopeParameters =
  | { readonly rope_type: 'default'; readonly rope_theta: number }
  | { readonly rope_type: 'linear'; readonly rope_theta: number; readonly factor: number }
  | {
      readonly rope_type: 'llama3';
      readonly rope_theta: number;
      readonly factor: number;
      readonly low_freq_factor: number;
      readonly high_freq_factor: number;
      readonly original_max_position_embeddings: number;
    };

/**
 * A Llama's config.json: all that bears on its mathematics, under the file's own names, with transformers' defaults
 * filled in.
 */
export interface LlamaConfig {
  readonly vocab_size: number;
  readonly hidden_size: number;
  /** Width inside the MLP. */
  readonly intermediate_size: number;
  readonly num_hidden_layers: number;
  readonly num_attention_heads: number;
  /** Divides num_attention_heads; each key-value head serves a group of query heads. */
  readonly num_key_value_heads: number;
  readonly head_dim: number;
  /** Of the MLP's gate: silu in a Llama, relu2 (the square of what is above 0) or silu in a BitNet. */
  readonly hidden_act: 'silu' | 'relu2';
  readonly max_position_embeddings: number;
  /** Standard deviation of fresh weights. */
  readonly initializer_range: number;
  readonly rms_norm_eps: number;
  /** Whether the head uses the embedding's weight. */
  readonly tie_word_embeddings: boolean;
  /** Biases on q, k, v and o. */
  readonly attention_bias: boolean;
  /** Biases on gate, up and down. */
  readonly mlp_bias: boolean;
  readonly rope_parameters: RopeParameters;
  readonly bos_token_id: number | null;
  readonly eos_token_id: number | readonly number[] | null;
  readonly pad_token_id: number | null;
  /** How the weights are stored, where the file says. */
  readonly dtype: WeightDtype | null;
}

/** transformers' LlamaConfig(), which is also the shape of Llama 1 7B. */
export const llama_defaults: LlamaConfig = {
  vocab_size: 32000,
  hidden_size: 4096,
  intermediate_size: 11008,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  num_key_value_heads: 32,
  head_dim: 128,
  hidden_act: 'silu',
  max_position_embeddings: 2048,
  initializer_range: 0.02,
  rms_norm_eps: 1e-6,
  tie_word_embeddings: false,
  attention_bias: false,
  mlp_bias: false,
  rope_parameters: { rope_type: 'default', rope_theta: 10000 },
  bos_token_id: 1,
  eos_token_id: 2,
  pad_token_id: null,
  dtype: null,
};

/** meta-llama/Llama-2-7b-hf. */
export const llama2_7b: LlamaConfig = {
  ...llama_defaults,
  max_position_embeddings: 4096,
  rms_norm_eps: 1e-5,
  dtype: 'float16',
};

/** meta-llama/Meta-Llama-3-8B. */
export const llama3_8b: LlamaConfig = {
  ...llama_defaults,
  vocab_size: 128256,
  intermediate_size: 14336,
  num_key_value_heads: 8,
  max_position_embeddings: 8192,
  rms_norm_eps: 1e-5,
  rope_parameters: { rope_type: 'default', rope_theta: 500000 },
  bos_token_id: 128000,
  eos_token_id: 128001,
  dtype: 'bfloat16',
};

/** meta-llama/Llama-3.1-8B. */
export const llama3_1_8b: LlamaConfig = {
  ...llama3_8b,
  max_position_embeddings: 131072,
  rope_parameters: {
    rope_type: 'llama3',
    rope_theta: 500000,
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  },
};

/** TinyLlama/TinyLlama_v1.1. */
export const llama_1_1b: LlamaConfig = {
  ...llama_defaults,
  hidden_size: 2048,
  intermediate_size: 5632,
  num_hidden_layers: 22,
  num_key_value_heads: 4,
  head_dim: 64,
  rms_norm_eps: 1e-5,
  dtype: 'float32',
};

/** The 110M shape of karpathy/tinyllamas (stories110M), tied. */
export const llama_110m: LlamaConfig = {
  ...llama_defaults,
  hidden_size: 768,
  intermediate_size: 2048,
  num_hidden_layers: 12,
  num_attention_heads: 12,
  num_key_value_heads: 12,
  head_dim: 64,
  max_position_embeddings: 1024,
  rms_norm_eps: 1e-5,
  tie_word_embeddings: true,
  dtype: 'float32',
};

type Shape = readonly number[];

/** Names and shapes of one decoder layer's weights, without the `model.layers.<i>.` prefix, in transformers' order. */
export function llamaLayerShapes(config: LlamaConfig): Map<string, Shape> {
  const { hidden_size: hidden, intermediate_size: inner } = config;
  const queries = config.num_attention_heads * config.head_dim;
  const keys = config.num_key_value_heads * config.head_dim;
  const shapes = new Map<string, Shape>();
  const linear = (name: string, outputs: number, inputs: number, bias: boolean): void => {
    shapes.set(`${name}.weight`, [outputs, inputs]);
    if (bias) shapes.set(`${name}.bias`, [outputs]);
  };
  linear('self_attn.q_proj', queries, hidden, config.attention_bias);
  linear('self_attn.k_proj', keys, hidden, config.attention_bias);
  linear('self_attn.v_proj', keys, hidden, config.attention_bias);
  linear('self_attn.o_proj', hidden, queries, config.attention_bias);
  linear('mlp.gate_proj', inner, hidden, config.mlp_bias);
  linear('mlp.up_proj', inner, hidden, config.mlp_bias);
  linear('mlp.down_proj', hidden, inner, config.mlp_bias);
  shapes.set('input_layernorm.weight', [hidden]);
  shapes.set('post_attention_layernorm.weight', [hidden]);
  return shapes;
}

/**
 * All of a model's weights: Hugging Face name to shape, in transformers' order; a tied head has no weight of its own.
 * @param layer names and shapes of a decoder layer's weights
 */
export function llamaWeightShapes(
  config: LlamaConfig,
  layer: ReadonlyMap<string, Shape> = llamaLayerShapes(config),
): Map<string, Shape> {
  const { vocab_size: vocabulary, hidden_size: hidden } = config;
  const shapes = new Map<string, Shape>([['model.embed_tokens.weight', [vocabulary, hidden]]]);
  for (let i = 0; i < config.num_hidden_layers; i++) {
    for (const [name, shape] of layer) shapes.set(`model.layers.${i}.${name}`, shape);
  }
  shapes.set('model.norm.weight', [hidden]);
  if (!config.tie_word_embeddings) shapes.set('lm_head.weight', [vocabulary, hidden]);
  return shapes;
}

/** Weights that a file may hold under a second name: [alias, name]. */
export function llamaTiedWeights(config: LlamaConfig): (readonly [alias: string, name: string])[] {
  return config.tie_word_embeddings ? [['lm_head.weight', 'model.embed_tokens.weight']] : [];
}

/** Numbers of parameters. */
export interface ParameterCount {
  readonly total: number;
  /** Embedding, each layer, then norm and head together (a tied head counts with the embedding). */
  readonly stages: readonly { readonly name: string; readonly parameters: number }[];
}

/** Numbers of parameters, in all and by stage; a tied weight counts once. */
export function parameterCount(config: LlamaConfig): ParameterCount {
  const perStage = new Map<string, number>();
  let total = 0;
  for (const [name, shape] of llamaWeightShapes(config)) {
    const stage = /^model\.(embed_tokens|layers\.\d+)/.exec(name)?.[0] ?? 'lm_head';
    const count = elementCount(shape);
    perStage.set(stage, (perStage.get(stage) ?? 0) + count);
    total += count;
  }
  return { total, stages: [...perStage].map(([name, parameters]) => ({ name, parameters })) };
}
