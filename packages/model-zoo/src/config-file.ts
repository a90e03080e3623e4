import { isObject, nearMatch, UserError } from '@blockwise/errors';
import { join } from 'node:path';

import { writeFileAside } from './atomic-file.ts';
import { llama_defaults } from './config.ts';
import type { LlamaConfig, RopeParameters, WeightDtype } from './config.ts';
import { brief, briefName, readJsonObject } from './json-object.ts';
import type { JsonObject } from './json-object.ts';

/** A config.json, understood. */
export interface LlamaConfigFile {
  readonly config: LlamaConfig;
  /** The file's own object, to be written back with `writeConfig`. */
  readonly json: JsonObject;
  /** One line for each key that was not understood, and for each oddity that changes nothing. */
  readonly warnings: readonly string[];
}

/** Many times any config.json. */
export const maxConfigBytes = 10_000_000;
const configFile = 'config.json';

/**
 * Keys of config.json that leave Llama's mathematics alone: bookkeeping, generation defaults of old files, output
 * switches. `pretraining_tp` only splits a product into slices, and transformers' own Llama no longer reads it.
 */
const harmlessKeys = new Set(
  (
    '_name_or_path architectures auto_map _commit_hash transformers_version model_type use_cache torch_dtype ' +
    'dtype torchscript use_bfloat16 _attn_implementation attn_implementation _attn_implementation_internal ' +
    '_attn_implementation_autoset pretraining_tp gradient_checkpointing output_attentions output_hidden_states ' +
    'return_dict return_dict_in_generate output_scores chunk_size_feed_forward tf_legacy_loss id2label label2id ' +
    'num_labels problem_type task_specific_params finetuning_task tokenizer_class prefix sep_token_id ' +
    'decoder_start_token_id cross_attention_hidden_size forced_bos_token_id forced_eos_token_id max_length ' +
    'min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p ' +
    'typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids ' +
    'num_return_sequences remove_invalid_values exponential_decay_length_penalty suppress_tokens ' +
    'begin_suppress_tokens is_decoder unsloth_fixed unsloth_version max_sequence_length'
  ).split(' '),
);

/** Keys that would change the mathematics, with the values that do not; null always means absent. */
const neutralValues: Record<string, readonly unknown[]> = {
  attention_dropout: [0],
  hidden_dropout: [0],
  hidden_dropout_prob: [0],
  resid_pdrop: [0],
  embd_pdrop: [0],
  sliding_window: [],
  use_sliding_window: [false],
  layer_types: [],
  attention_multiplier: [],
  embedding_multiplier: [1],
  residual_multiplier: [1],
  logits_scaling: [1],
  logit_scale: [1],
  attn_logit_softcapping: [],
  final_logit_softcapping: [],
  query_pre_attn_scalar: [],
  clip_qkv: [],
  qk_norm: [false],
  use_qk_norm: [false],
  partial_rotary_factor: [1],
  rope_interleaved: [false],
  alibi: [false],
  no_rope_layers: [],
  num_experts: [0, 1],
  num_local_experts: [0, 1],
  quantization_config: [],
  add_cross_attention: [false],
  is_encoder_decoder: [false],
  tie_encoder_decoder: [false],
  original_max_position_embeddings: [],
};

/**
 * Reads `config.json` of a model folder. All problems come in one error; keys that change the mathematics and are not
 * supported are problems, other unknown keys are warnings.
 * @throws UserError naming the file and each field, what was found and what was expected.
 */
export function readLlamaConfig(folder: string): LlamaConfigFile {
  const path = join(folder, configFile);
  return parseLlamaConfig(readJsonObject(path, maxConfigBytes), path);
}

/** `readLlamaConfig` of an object already parsed; `path` is for its messages. */
export function parseLlamaConfig(json: JsonObject, path: string = configFile): LlamaConfigFile {
  return parseConfigOf(llamaFamily, json, path);
}

/** What differs between the config.json of models of Llama's family. */
export interface ConfigFamily {
  readonly model_type: string;
  readonly architecture: string;
  /** transformers' defaults; its hidden_act, too. */
  readonly defaults: LlamaConfig;
  readonly activations: readonly LlamaConfig['hidden_act'][];
  /** Keys that the family reads itself, and what is wrong with them. */
  readonly ownKeys: readonly string[];
  ownProblems(json: JsonObject): string[];
}

const llamaFamily: ConfigFamily = {
  model_type: 'llama',
  architecture: 'LlamaForCausalLM',
  defaults: llama_defaults,
  activations: ['silu'],
  ownKeys: [],
  ownProblems: () => [],
};

/** `parseLlamaConfig` for any model of the family. */
export function parseConfigOf(family: ConfigFamily, json: JsonObject, path: string = configFile): LlamaConfigFile {
  const problems: string[] = family.ownProblems(json);
  const warnings: string[] = [];
  checkModelType(family, json, problems);
  const config = readFields(family, json, problems, warnings);
  const known = new Set([...Object.keys(config), 'rope_theta', 'rope_scaling', ...harmlessKeys]);
  for (const [key, value] of Object.entries(json))
    if (!family.ownKeys.includes(key)) checkKey(key, value, known, problems, warnings);
  if (typeof json.pretraining_tp === 'number' && json.pretraining_tp > 1)
    warnings.push('pretraining_tp is ignored, as transformers ignores it');
  if (problems.length === 0) checkRelations(config, problems);
  if (problems.length > 0) throw UserError.of(path, problems);
  return { config, json, warnings };
}

function checkModelType({ model_type, architecture }: ConfigFamily, json: JsonObject, problems: string[]): void {
  if (json.model_type !== model_type) {
    problems.push(
      `model_type: found ${brief(json.model_type)}, expected "${model_type}", the architecture ` +
        (model_type === 'llama' ? 'this package has' : 'that is opened here'),
    );
  }
  const architectures = json.architectures ?? [architecture];
  if (!Array.isArray(architectures) || !architectures.includes(architecture)) {
    problems.push(`architectures: found ${brief(architectures)}, expected ["${architecture}"]`);
  }
}

/** Reports a key that changes the mathematics, or that nobody knows. */
function checkKey(key: string, value: unknown, known: Set<string>, problems: string[], warnings: string[]): void {
  if (Object.hasOwn(neutralValues, key)) {
    const neutral = neutralValues[key]!;
    if (value === null || neutral.includes(value) || isAllFullAttention(key, value)) return;
    const expected = neutral.length > 0 ? neutral.map(brief).join(' or ') : 'no such key';
    problems.push(
      `${key}: found ${brief(value)}, expected ${expected}: it changes the mathematics and is not supported`,
    );
  } else if (!known.has(key)) {
    const near = nearMatch(key, known);
    warnings.push(
      `${briefName(key)} is not a key of a Llama config and is ignored${near ? `; did you mean ${near}?` : ''}`,
    );
  }
}

function isAllFullAttention(key: string, value: unknown): boolean {
  return key === 'layer_types' && Array.isArray(value) && value.every((type) => type === 'full_attention');
}

function readFields(
  { defaults, activations }: ConfigFamily,
  json: JsonObject,
  problems: string[],
  warnings: string[],
): LlamaConfig {
  const size = (key: keyof LlamaConfig & string): number =>
    positive(json, key, true, defaults[key] as number, problems);
  const flag = (key: keyof LlamaConfig & string): boolean => {
    const value = json[key] ?? defaults[key];
    if (typeof value !== 'boolean') problems.push(`${key}: found ${brief(value)}, expected true or false`);
    return value === true;
  };
  const hidden_size = size('hidden_size');
  const num_attention_heads = size('num_attention_heads');
  const vocab_size = size('vocab_size');
  const tokenId = (key: 'bos_token_id' | 'pad_token_id'): number | null => {
    const ids = tokenIds(json, key, defaults, vocab_size, problems, warnings);
    if (Array.isArray(ids)) problems.push(`${key}: found ${brief(ids)}, expected one token id`);
    return ids as number | null;
  };
  return {
    vocab_size,
    hidden_size,
    intermediate_size: size('intermediate_size'),
    num_hidden_layers: size('num_hidden_layers'),
    num_attention_heads,
    num_key_value_heads: positive(json, 'num_key_value_heads', true, num_attention_heads, problems),
    head_dim: positive(json, 'head_dim', true, Math.max(1, Math.floor(hidden_size / num_attention_heads)), problems),
    hidden_act: readActivation(json, defaults, activations, problems),
    max_position_embeddings: size('max_position_embeddings'),
    initializer_range: positive(json, 'initializer_range', false, defaults.initializer_range, problems),
    rms_norm_eps: positive(json, 'rms_norm_eps', false, defaults.rms_norm_eps, problems),
    tie_word_embeddings: flag('tie_word_embeddings'),
    attention_bias: flag('attention_bias'),
    mlp_bias: flag('mlp_bias'),
    rope_parameters: readRope(json, defaults.rope_parameters, problems, warnings),
    bos_token_id: tokenId('bos_token_id'),
    eos_token_id: tokenIds(json, 'eos_token_id', defaults, vocab_size, problems, warnings),
    pad_token_id: tokenId('pad_token_id'),
    dtype: readDtype(json, problems),
  };
}

function readActivation(
  json: JsonObject,
  defaults: LlamaConfig,
  activations: ConfigFamily['activations'],
  problems: string[],
): LlamaConfig['hidden_act'] {
  const value = json.hidden_act ?? defaults.hidden_act;
  const found = activations.find((activation) => activation === value);
  if (!found)
    problems.push(
      `hidden_act: found ${brief(value)}, expected ${activations.map(brief).join(' or ')}: it changes the mathematics and is not supported`,
    );
  return found ?? defaults.hidden_act;
}

/** A number above zero, or the default where the key is absent or null. */
function positive(
  json: JsonObject,
  key: string,
  integer: boolean,
  standard: number,
  problems: string[],
  where = '',
): number {
  const value = json[key] ?? standard;
  if (typeof value === 'number' && value > 0 && (integer ? Number.isSafeInteger(value) : Number.isFinite(value)))
    return value;
  problems.push(
    `${where}${key}: found ${brief(json[key])}, expected ${integer ? 'an integer' : 'a number'} above zero`,
  );
  return standard;
}

/**
 * A token id or a list of them; null where there is none. Ids outside the vocabulary (old files have -1) are dropped
 * with a warning.
 */
function tokenIds(
  json: JsonObject,
  key: 'bos_token_id' | 'eos_token_id' | 'pad_token_id',
  defaults: LlamaConfig,
  vocabulary: number,
  problems: string[],
  warnings: string[],
): number | number[] | null {
  const value = key in json ? json[key] : defaults[key];
  if (value === null) return null;
  const ids: unknown[] = Array.isArray(value) ? value : [value];
  if (!ids.every((id): id is number => Number.isSafeInteger(id))) {
    problems.push(
      `${key}: found ${brief(value)}, expected a token id${key === 'eos_token_id' ? ' or a list of them' : ''}`,
    );
    return null;
  }
  const inside = ids.filter((id) => id >= 0 && id < vocabulary);
  if (inside.length < ids.length && key in json) {
    warnings.push(`${key} ${brief(value)} is outside the vocabulary of ${vocabulary} and is ignored`);
  }
  return Array.isArray(value) ? inside : (inside[0] ?? null);
}

const ropeFields = {
  default: [],
  linear: ['factor'],
  llama3: ['factor', 'low_freq_factor', 'high_freq_factor', 'original_max_position_embeddings'],
} as const satisfies Record<RopeParameters['rope_type'], readonly string[]>;

/**
 * rope_scaling with rope_theta beside it (transformers 4), or rope_parameters with rope_theta inside (5); the former
 * wins, as in 5.
 */
function readRope(json: JsonObject, standard: RopeParameters, problems: string[], warnings: string[]): RopeParameters {
  const where = json.rope_scaling ? 'rope_scaling' : 'rope_parameters';
  const rope = json[where] ?? {};
  if (!isObject(rope)) {
    problems.push(`${where}: found ${brief(rope)}, expected an object`);
    return standard;
  }
  const base = rope.rope_theta === undefined || rope.rope_theta === null ? json : rope;
  const rope_theta = positive(
    base,
    'rope_theta',
    false,
    standard.rope_theta,
    problems,
    base === rope ? `${where}.` : '',
  );
  const rope_type = rope.rope_type ?? rope.type ?? 'default'; // "type" in the first files
  if (typeof rope_type !== 'string' || !Object.hasOwn(ropeFields, rope_type)) {
    const supported = Object.keys(ropeFields).join(', ');
    problems.push(`${where}.rope_type: found ${brief(rope_type)}, expected one of ${supported}`);
    return standard;
  }
  const fields: readonly string[] = ropeFields[rope_type as keyof typeof ropeFields];
  const values = fields.map((field) => [field, positive(rope, field, false, NaN, problems, `${where}.`)]);
  for (const key of Object.keys(rope)) {
    if (['rope_type', 'type', 'rope_theta', ...fields].includes(key)) continue;
    if (key === 'partial_rotary_factor' && rope[key] !== 1 && rope[key] !== null) {
      problems.push(
        `${where}.${key}: found ${brief(rope[key])}, expected 1: it changes the mathematics and is not supported`,
      );
    } else if (key !== 'partial_rotary_factor') {
      warnings.push(`${where}.${briefName(key)} is not used by rope_type ${rope_type} and is ignored`);
    }
  }
  return { rope_type, rope_theta, ...Object.fromEntries(values) } as RopeParameters;
}

const weightDtypes: readonly WeightDtype[] = ['float32', 'bfloat16', 'float16'];

function readDtype(json: JsonObject, problems: string[]): WeightDtype | null {
  const value = json.dtype ?? json.torch_dtype ?? null;
  if (value === null || weightDtypes.includes(value as WeightDtype)) return value as WeightDtype | null;
  const key = json.dtype === undefined || json.dtype === null ? 'torch_dtype' : 'dtype';
  problems.push(`${key}: found ${brief(value)}, expected ${weightDtypes.join(', ')} or null`);
  return null;
}

/** Many times the deepest Llama's (126), few enough to name the weights of each before any file is looked at. */
const maxLayers = 1000;

function checkRelations(config: LlamaConfig, problems: string[]): void {
  const {
    hidden_size,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: groups,
    head_dim,
    rope_parameters: rope,
    rms_norm_eps,
  } = config;
  if (layers > maxLayers) problems.push(`num_hidden_layers: found ${layers}, expected at most ${maxLayers}`);
  if (hidden_size % heads !== 0) {
    problems.push(`hidden_size: found ${hidden_size}, expected a multiple of num_attention_heads, ${heads}`);
  }
  if (heads % groups !== 0) {
    problems.push(`num_key_value_heads: found ${groups}, expected a divisor of num_attention_heads, ${heads}`);
  }
  if (head_dim % 2 !== 0) problems.push(`head_dim: found ${head_dim}, expected an even number: it is rotated in pairs`);
  // Beyond these limits every output is 0 or NaN, whatever the weights.
  if (rms_norm_eps > 1) problems.push(`rms_norm_eps: found ${rms_norm_eps}, expected at most 1`);
  if (rope.rope_theta < 1) problems.push(`rope_theta: found ${rope.rope_theta}, expected at least 1`);
  if ('factor' in rope && rope.factor < 1) problems.push(`factor: found ${rope.factor}, expected at least 1`);
  if (rope.rope_type === 'llama3' && rope.high_freq_factor <= rope.low_freq_factor) {
    problems.push(
      `high_freq_factor: found ${rope.high_freq_factor}, expected more than low_freq_factor, ${rope.low_freq_factor}`,
    );
  }
}

/** A config.json for a config that came from no file, in the spelling that every version of transformers reads. */
export function llamaConfigJson(config: LlamaConfig): JsonObject {
  const { rope_parameters, dtype, ...fields } = config;
  const { rope_theta, ...scaling } = rope_parameters;
  return {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    ...fields,
    rope_theta,
    rope_scaling: scaling.rope_type === 'default' ? null : scaling,
    torch_dtype: dtype ?? 'float32',
  };
}

/** Fields that are floats in Python; transformers warns of, or refuses, `8` where it expects `8.0`. */
const wholeFloat = /("(?:rope_theta|factor|low_freq_factor|high_freq_factor|attention_dropout)": -?\d+)(?=[,\s])/g;

/**
 * Writes `config.json` into a folder: the object as it was read, every key in its place, with only the dtype of the
 * weights changed, under the key the file already used. Complete or absent.
 */
export async function writeConfig(folder: string, json: JsonObject, dtype: WeightDtype): Promise<void> {
  const written = { ...json };
  if ('dtype' in written) written.dtype = dtype;
  if ('torch_dtype' in written || !('dtype' in written)) written.torch_dtype = dtype;
  const text = JSON.stringify(written, undefined, 2).replace(wholeFloat, '$1.0');
  await writeFileAside(join(folder, configFile), `${text}\n`);
}
