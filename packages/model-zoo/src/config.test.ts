import { expect, test } from 'vitest';

import {
  llama2_7b,
  llama3_1_8b,
  llama3_8b,
  llama_110m,
  llama_1_1b,
  llama_defaults,
  llamaTiedWeights,
  llamaWeightShapes,
  parameterCount,
} from './config.ts';

test.each([
  // The hub's own figures for these models (model.safetensors.index.json: total_size / bytes per weight).
  ['Llama-2-7b-hf', llama2_7b, 6_738_415_616],
  ['Meta-Llama-3-8B', llama3_8b, 8_030_261_248],
  ['Llama-3.1-8B', llama3_1_8b, 8_030_261_248],
  ['TinyLlama_v1.1', llama_1_1b, 1_100_048_384],
  // llama2.c: "110M", 768 x 32000 embedding shared with the head.
  ['stories110M', llama_110m, 109_529_856],
])('%s has the published number of parameters', (_, config, total) => {
  expect(parameterCount(config).total).toBe(total);
});

test('counts by stage: embedding, each layer, norm with head', () => {
  const { total, stages } = parameterCount(llama2_7b);
  expect(stages.map(({ name }) => name)).toEqual([
    'model.embed_tokens',
    ...Array.from({ length: 32 }, (_, i) => `model.layers.${i}`),
    'lm_head',
  ]);
  expect(stages[0]!.parameters).toBe(32000 * 4096);
  // 4 x 4096^2 + 3 x 4096 x 11008 + 2 x 4096; paper section 3.1 speaks of 202M a layer.
  expect(stages[1]!.parameters).toBe(202_383_360);
  expect(stages.at(-1)!.parameters).toBe(4096 + 32000 * 4096);
  expect(stages.reduce((sum, { parameters }) => sum + parameters, 0)).toBe(total);
});

test('a tied head has no weight of its own and counts with the embedding', () => {
  expect(llamaWeightShapes(llama_110m).has('lm_head.weight')).toBe(false);
  expect(llamaTiedWeights(llama_110m)).toEqual([['lm_head.weight', 'model.embed_tokens.weight']]);
  expect(llamaTiedWeights(llama2_7b)).toEqual([]);
  expect(parameterCount(llama_110m).stages.at(-1)).toEqual({ name: 'lm_head', parameters: 768 });
});

test('grouped queries, a head size of their own and biases shape the projections', () => {
  const shapes = llamaWeightShapes({
    ...llama_defaults,
    hidden_size: 16,
    intermediate_size: 12,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 6,
    attention_bias: true,
    mlp_bias: true,
  });
  const shape = (name: string): readonly number[] | undefined => shapes.get(`model.layers.31.${name}`);
  expect(shape('self_attn.q_proj.weight')).toEqual([24, 16]);
  expect(shape('self_attn.k_proj.weight')).toEqual([12, 16]);
  expect(shape('self_attn.v_proj.bias')).toEqual([12]);
  expect(shape('self_attn.o_proj.weight')).toEqual([16, 24]);
  expect(shape('self_attn.o_proj.bias')).toEqual([16]);
  expect(shape('mlp.gate_proj.bias')).toEqual([12]);
  expect(shape('mlp.down_proj.weight')).toEqual([16, 12]);
  expect(shape('mlp.down_proj.bias')).toEqual([16]);
});
