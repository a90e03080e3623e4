import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, describe, expect, test } from 'vitest';

import { llama2_7b, llama3_1_8b, llama_defaults } from './config.ts';
import { llamaConfigJson, parseLlamaConfig, readLlamaConfig, writeConfig } from './config-file.ts';
import type { JsonObject } from './json-object.ts';
import { haveStories, stories } from './stories.test-support.ts';

const folder = mkdtempSync(join(tmpdir(), 'config-'));
afterAll(() => rmSync(folder, { recursive: true }));

const read = (json: JsonObject): ReturnType<typeof parseLlamaConfig> =>
  parseLlamaConfig({ model_type: 'llama', ...json });

describe('defaults', () => {
  test('are those of transformers where the file is silent', () => {
    expect(read({}).config).toEqual(llama_defaults);
  });

  test('of key-value heads and head size follow the heads of the file, also where it says null', () => {
    const { config } = read({ hidden_size: 64, num_attention_heads: 8, num_key_value_heads: null, head_dim: null });
    expect(config).toMatchObject({ num_key_value_heads: 8, head_dim: 8 });
    expect(read({ hidden_size: 64, num_attention_heads: 8, head_dim: 16 }).config.head_dim).toBe(16);
  });
});

test.skipIf(!haveStories)('a real config is read whole', () => {
  const { config } = readLlamaConfig(stories);
  expect(config).toMatchObject({
    hidden_size: 64,
    head_dim: 8,
    num_key_value_heads: 4,
    vocab_size: 512,
    dtype: 'float32',
  });
  expect(config).toMatchObject({ rms_norm_eps: 1e-5, tie_word_embeddings: true, eos_token_id: 2 });
});

test('more layers than any model has are refused before the weights of each are named', () => {
  expect(() => read({ num_hidden_layers: 1e9 })).toThrow(
    'config.json: num_hidden_layers: found 1000000000, expected at most 1000',
  );
  expect(read({ num_hidden_layers: 1000 }).config.num_hidden_layers).toBe(1000);
});

describe('rotary embedding', () => {
  const llama3 = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 };
  test.each([
    [
      'transformers 4',
      { rope_theta: 500000, rope_scaling: { rope_type: 'llama3', ...llama3 } },
      llama3_1_8b.rope_parameters,
    ],
    [
      'transformers 5',
      { rope_parameters: { rope_type: 'llama3', rope_theta: 500000, ...llama3 } },
      llama3_1_8b.rope_parameters,
    ],
    [
      'its first files',
      { rope_scaling: { type: 'linear', factor: 4 } },
      { rope_type: 'linear', rope_theta: 10000, factor: 4 },
    ],
    ['null scaling', { rope_theta: 5e5, rope_scaling: null }, { rope_type: 'default', rope_theta: 5e5 }],
    [
      'theta beside rope_parameters',
      { rope_theta: 7, rope_parameters: { rope_type: 'default' } },
      { rope_type: 'default', rope_theta: 7 },
    ],
  ])('in the form of %s', (_, json, rope) => {
    expect(read(json).config.rope_parameters).toEqual(rope);
  });

  test.each([
    [
      { rope_scaling: { rope_type: 'yarn', factor: 4 } },
      'rope_scaling.rope_type: found "yarn", expected one of default, linear, llama3',
    ],
    [{ rope_parameters: { rope_type: 'dynamic' } }, 'rope_parameters.rope_type: found "dynamic"'],
    [{ rope_scaling: { rope_type: 'linear' } }, 'rope_scaling.factor: found nothing, expected a number above zero'],
    [{ rope_scaling: 4 }, 'rope_scaling: found 4, expected an object'],
    [{ rope_theta: -1 }, 'rope_theta: found -1, expected a number above zero'],
    [{ rope_parameters: { rope_theta: 'x' } }, 'rope_parameters.rope_theta: found "x", expected a number above zero'],
    [
      { rope_parameters: { partial_rotary_factor: 0.5 } },
      'rope_parameters.partial_rotary_factor: found 0.5, expected 1',
    ],
    [
      { rope_scaling: { rope_type: 'llama3', ...llama3, high_freq_factor: 1 } },
      'high_freq_factor: found 1, expected more than low_freq_factor, 1',
    ],
    [{ rms_norm_eps: 1e300 }, 'rms_norm_eps: found 1e+300, expected at most 1'],
    [{ rope_theta: 1e-300 }, 'rope_theta: found 1e-300, expected at least 1'],
    [{ rope_scaling: { rope_type: 'linear', factor: 1e-320 } }, 'factor: found 1e-320, expected at least 1'],
  ])('that is not supported is refused: %j', (json, message) => {
    expect(() => read(json)).toThrow(message);
  });

  test('keys its kind does not use are reported', () => {
    const { warnings } = read({ rope_scaling: { rope_type: 'linear', factor: 2, beta_fast: 32 } });
    expect(warnings).toEqual(['rope_scaling.beta_fast is not used by rope_type linear and is ignored']);
  });
});

describe('keys that change the mathematics', () => {
  test.each([
    [{ hidden_act: 'gelu' }, 'hidden_act: found "gelu", expected "silu": it changes the mathematics'],
    [{ sliding_window: 4096 }, 'sliding_window: found 4096, expected no such key'],
    [{ attention_multiplier: 0.01 }, 'attention_multiplier: found 0.01'],
    [{ logit_scale: 0.06 }, 'logit_scale: found 0.06, expected 1'],
    [{ attention_dropout: 0.1 }, 'attention_dropout: found 0.1, expected 0'],
    [{ layer_types: ['full_attention', 'sliding_attention'] }, 'layer_types: found'],
    [{ quantization_config: { quant_method: 'gptq' } }, 'quantization_config: found'],
  ])('%j is refused', (json, message) => {
    expect(() => read(json)).toThrow(message);
  });

  test('pass at the values that change nothing', () => {
    const neutral = {
      hidden_act: 'silu',
      sliding_window: null,
      attention_dropout: 0,
      logit_scale: 1,
      layer_types: ['full_attention'],
    };
    expect(read(neutral).warnings).toEqual([]);
  });
});

describe('a wrong file', () => {
  test('gets all of its problems in one error', () => {
    const json = {
      model_type: 'mistral',
      architectures: ['MistralForCausalLM'],
      hidden_size: 0,
      num_hidden_layers: 1.5,
      tie_word_embeddings: 'yes',
      bos_token_id: [1],
      eos_token_id: 'x',
      torch_dtype: 'float8',
    };
    expect(() => parseLlamaConfig(json, '/m/config.json')).toThrow(
      [
        '/m/config.json: 8 problems',
        '  - model_type: found "mistral", expected "llama", the architecture this package has',
        '  - architectures: found ["MistralForCausalLM"], expected ["LlamaForCausalLM"]',
        '  - hidden_size: found 0, expected an integer above zero',
        '  - num_hidden_layers: found 1.5, expected an integer above zero',
        '  - tie_word_embeddings: found "yes", expected true or false',
        '  - bos_token_id: found [1], expected one token id',
        '  - eos_token_id: found "x", expected a token id or a list of them',
        '  - torch_dtype: found "float8", expected float32, bfloat16, float16 or null',
      ].join('\n'),
    );
  });

  test.each([
    [
      { hidden_size: 65, num_attention_heads: 8 },
      'hidden_size: found 65, expected a multiple of num_attention_heads, 8',
    ],
    [{ num_key_value_heads: 5 }, 'num_key_value_heads: found 5, expected a divisor of num_attention_heads, 32'],
    [{ head_dim: 7 }, 'head_dim: found 7, expected an even number'],
  ])('with sizes that do not fit each other is refused: %j', (json, message) => {
    expect(() => read(json)).toThrow(message);
  });

  test('that is absent, huge or not JSON is refused with its path', () => {
    const path = join(folder, 'config.json');
    expect(() => readLlamaConfig(folder)).toThrow(`${path}: cannot be read (ENOENT)`);
    symlinkSync('/dev/zero', path);
    expect(() => readLlamaConfig(folder)).toThrow(`${path}: expected a file, found a folder or device`);
    rmSync(path);
    writeFileSync(path, '{"model_type": "llama",');
    expect(() => readLlamaConfig(folder)).toThrow(`${path}: not valid JSON (`);
    writeFileSync(path, '[1]');
    expect(() => readLlamaConfig(folder)).toThrow(`${path}: expected a JSON object, found [1]`);
    writeFileSync(path, '['.repeat(200));
    expect(() => readLlamaConfig(folder)).toThrow('nests deeper than 100 brackets');
    writeFileSync(path, ' '.repeat(10_000_001));
    expect(() => readLlamaConfig(folder)).toThrow('10000001 bytes, more than the 10000000 expected');
  });
});

describe('warnings', () => {
  test('name unknown keys with the nearest known one', () => {
    const { warnings } = read({
      rope_teta: 1,
      num_hiden_layers: 3,
      favourite_colour: 'blue',
      _name_or_path: 'x',
      use_cache: true,
    });
    expect(warnings).toContain(
      'num_hiden_layers is not a key of a Llama config and is ignored; did you mean num_hidden_layers?',
    );
    expect(warnings).toContain('favourite_colour is not a key of a Llama config and is ignored');
    expect(warnings).toHaveLength(3);
  });

  test('tell of token ids outside the vocabulary, which are dropped', () => {
    const { config, warnings } = read({ pad_token_id: -1, eos_token_id: [2, 99999] });
    expect(config).toMatchObject({ pad_token_id: null, eos_token_id: [2] });
    expect(warnings).toEqual([
      'eos_token_id [2,99999] is outside the vocabulary of 32000 and is ignored',
      'pad_token_id -1 is outside the vocabulary of 32000 and is ignored',
    ]);
  });

  test('tell that pretraining_tp is ignored', () => {
    expect(read({ pretraining_tp: { toString: 1 } }).warnings).toEqual([]); // no number, and none can be made of it
    expect(read({ pretraining_tp: 2 }).warnings).toEqual(['pretraining_tp is ignored, as transformers ignores it']);
  });
});

describe('writing', () => {
  test('keeps every key and its order, and changes the dtype under the key the file used', async () => {
    const cases = [
      [
        { zeta: 1, torch_dtype: 'float32', model_type: 'llama' },
        { zeta: 1, torch_dtype: 'bfloat16', model_type: 'llama' },
      ],
      [
        { dtype: 'float32', x: null },
        { dtype: 'bfloat16', x: null },
      ],
      [{ x: [1] }, { x: [1], torch_dtype: 'bfloat16' }],
    ];
    for (const [json, written] of cases) {
      await writeConfig(folder, json!, 'bfloat16');
      expect(readFileSync(join(folder, 'config.json'), 'utf8')).toBe(`${JSON.stringify(written, undefined, 2)}\n`);
    }
  });

  test('keeps whole numbers floats where Python has floats, and integers integers', async () => {
    await writeConfig(folder, llamaConfigJson(llama3_1_8b), 'bfloat16');
    const text = readFileSync(join(folder, 'config.json'), 'utf8');
    expect(text).toContain('"rope_theta": 500000.0,');
    expect(text).toMatch(/"factor": 8\.0,\s+"low_freq_factor": 1\.0,\s+"high_freq_factor": 4\.0,/);
    expect(text).toMatch(/"original_max_position_embeddings": 8192\s/);
    expect(text).toContain('"hidden_size": 4096,');
  });

  test.each([llama2_7b, llama3_1_8b, llama_defaults])('a config of ours reads back equal', async (config) => {
    await writeConfig(folder, llamaConfigJson(config), config.dtype ?? 'float32');
    expect(readLlamaConfig(folder)).toMatchObject({
      config: { ...config, dtype: config.dtype ?? 'float32' },
      warnings: [],
    });
  });
});
