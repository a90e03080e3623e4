import { isObject } from '@blockwise/errors';
import { join } from 'node:path';
import { llama_defaults, llamaLayerShapes, llamaWeightShapes, type LlamaConfig } from './config.ts';
import {
  llamaConfigJson,
  maxConfigBytes,
  parseConfigOf,
  type ConfigFamily,
  type LlamaConfigFile,
} from './config-file.ts';
import { brief, readJsonObject, type JsonObject } from './json-object.ts';

/** transformers' BitNetConfig(), which is also the shape of microsoft/bitnet-b1.58-2B-4T (whose head is tied). */
export const bitnet_defaults: LlamaConfig = {
  ...llama_defaults,
  vocab_size: 128256,
  hidden_size: 2560,
  intermediate_size: 6912,
  num_hidden_layers: 30,
  num_attention_heads: 20,
  num_key_value_heads: 5,
  hidden_act: 'relu2',
  rms_norm_eps: 1e-5,
  rope_parameters: { rope_type: 'default', rope_theta: 500000 },
  bos_token_id: 128000,
  eos_token_id: 128001,
};

/**
 * How a file's linear weights are kept: `online`, as floats that become ternary when they are used, which can be trained; or packed, 2 bits
 * each beside a weight_scale, which divides what the codes give (`bitlinear`) or multiplies it (`autobitlinear`).
 */
export type BitNetStorage = 'online' | 'bitlinear' | 'autobitlinear';

/** The key quantization_config of such files, read by transformers' BitNetQuantConfig. */
export function bitnetQuantization(storage: BitNetStorage): JsonObject {
  return {
    quant_method: 'bitnet',
    linear_class: storage === 'bitlinear' ? 'bitlinear' : 'autobitlinear',
    quantization_mode: storage === 'online' ? 'online' : 'offline',
  };
}

/** config.json of a BitNet that came from no file. */
export function bitnetConfigJson(config: LlamaConfig, storage: BitNetStorage = 'online'): JsonObject {
  return {
    ...llamaConfigJson(config),
    ...{ architectures: ['BitNetForCausalLM'], model_type: 'bitnet', quantization_config: bitnetQuantization(storage) },
  };
}

/** What quantization_config says; its absence means linear layers of full precision, which are no BitNet's. */
function readStorage(json: JsonObject, problems: string[] = []): BitNetStorage {
  const field = 'quantization_config';
  const value = json[field];
  if (!isObject(value)) {
    const expected = brief(bitnetQuantization('online'));
    problems.push(`${field}: found ${brief(value)}, expected one such as ${expected}`);
    return 'online';
  }
  const { quant_method, linear_class = 'bitlinear', quantization_mode = 'offline', use_rms_norm = false } = value;
  const expect = (key: string, found: unknown, ...expected: unknown[]) => {
    if (!expected.includes(found))
      problems.push(`${field}.${key}: found ${brief(found)}, expected ${expected.map(brief).join(' or ')}`);
  };
  expect('quant_method', quant_method, 'bitnet');
  expect('linear_class', linear_class, 'bitlinear', 'autobitlinear');
  expect('quantization_mode', quantization_mode, 'online', 'offline');
  expect('use_rms_norm', use_rms_norm, false);
  const unconverted = value.modules_to_not_convert ?? [];
  expect('modules_to_not_convert', brief(unconverted), '[]', '["lm_head"]');
  if (linear_class === 'bitlinear') return 'bitlinear'; // transformers' BitLinear has no online mode
  return quantization_mode === 'online' ? 'online' : 'autobitlinear';
}

const bitnetFamily: ConfigFamily = {
  model_type: 'bitnet',
  architecture: 'BitNetForCausalLM',
  defaults: bitnet_defaults,
  activations: ['relu2', 'silu'],
  ownKeys: ['quantization_config'],
  ownProblems(json) {
    const problems: string[] = [];
    readStorage(json, problems);
    const {
      hidden_size = bitnet_defaults.hidden_size,
      head_dim,
      num_attention_heads: heads = bitnet_defaults.num_attention_heads,
    } = json;
    if (typeof head_dim === 'number' && head_dim * Number(heads) !== hidden_size)
      problems.push(
        `head_dim: found ${head_dim}, expected hidden_size / num_attention_heads: attn_sub_norm is as wide`,
      );
    if (json.mlp_bias)
      problems.push(`mlp_bias: found ${brief(json.mlp_bias)}, expected false: a BitNet's MLP has none`);
    return problems;
  },
};

/** A BitNet's config.json: as a Llama's, and how its files keep the linear weights. */
export interface BitNetConfigFile extends LlamaConfigFile {
  readonly storage: BitNetStorage;
}

/**
 * Reads `config.json` of a BitNet's folder (model_type bitnet).
 * @throws UserError naming the file and each field, what was found and what was expected.
 */
export function readBitNetConfig(folder: string): BitNetConfigFile {
  const path = join(folder, 'config.json');
  return parseBitNetConfig(readJsonObject(path, maxConfigBytes), path);
}

/** `readBitNetConfig` of an object already parsed; `path` is for its messages. */
export function parseBitNetConfig(json: JsonObject, path = 'config.json'): BitNetConfigFile {
  return { ...parseConfigOf(bitnetFamily, json, path), storage: readStorage(json) };
}

type Shape = readonly number[];

/** Names and shapes of one decoder layer's weights: a Llama's and two sub-norms. */
export function bitnetLayerShapes(config: LlamaConfig): Map<string, Shape> {
  return new Map<string, Shape>([
    ...llamaLayerShapes(config),
    ['self_attn.attn_sub_norm.weight', [config.hidden_size]],
    ['mlp.ffn_sub_norm.weight', [config.intermediate_size]],
  ]);
}

/** The same with linear weights packed: uint8 [outputs / 4, inputs], each with a weight_scale [1]. */
export function packedLayerShapes(config: LlamaConfig): Map<string, Shape> {
  const entries = [...bitnetLayerShapes(config)].flatMap(([name, shape]): [string, Shape][] =>
    shape.length === 2
      ? [
          [name, [shape[0] / 4, shape[1]]],
          [`${name}_scale`, [1]],
        ]
      : [[name, shape]],
  );
  return new Map(entries);
}

/** All of a BitNet's weights: Hugging Face name to shape, in the storage that its files have. */
export function bitnetWeightShapes(config: LlamaConfig, storage: BitNetStorage = 'online'): Map<string, Shape> {
  return llamaWeightShapes(config, storage === 'online' ? bitnetLayerShapes(config) : packedLayerShapes(config));
}
