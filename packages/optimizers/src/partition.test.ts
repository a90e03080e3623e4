import { UserError } from '@blockwise/errors';
import { expect, test } from 'vitest';
import { isNormOrBias, partitionByAttentionMlp, partitionByLayer, partitionByMatrix, planBlocks } from './index.ts';

const llamaLayer = [
  'input_layernorm.weight',
  'self_attn.q_proj.weight',
  'self_attn.k_proj.weight',
  'self_attn.k_proj.bias',
  'self_attn.o_proj.weight',
  'mlp.gate_proj.weight',
  'mlp.up_proj.weight',
  'mlp.down_proj.weight',
  'post_attention_layernorm.weight',
];
/** As safetensors files list them: 10 before 2. */
const llamaLayers = [0, 1, 10, 11, 2, 3].flatMap((i) => llamaLayer.map((name) => `model.layers.${i}.${name}`));
const llama = ['lm_head.weight', 'model.embed_tokens.weight', ...llamaLayers, 'model.norm.weight'];
const tied = llama.slice(1);

const robertaLayer = [
  'attention.self.query.weight',
  'attention.self.query.bias',
  'attention.output.dense.weight',
  'attention.output.LayerNorm.weight',
  'intermediate.dense.weight',
  'output.dense.weight',
  'output.LayerNorm.bias',
];
const roberta = [
  'roberta.embeddings.word_embeddings.weight',
  'roberta.embeddings.position_embeddings.weight',
  'roberta.embeddings.LayerNorm.weight',
  ...[0, 1].flatMap((i) => robertaLayer.map((name) => `roberta.encoder.layer.${i}.${name}`)),
  'classifier.dense.weight',
  'classifier.out_proj.bias',
];

test('by layer: one block per layer in numerical order, whatever the order of the names', () => {
  expect(partitionByLayer(llama)).toEqual([0, 1, 2, 3, 10, 11].map((i) => [`model.layers.${i}.`]));
  expect(partitionByLayer(roberta)).toEqual([['roberta.encoder.layer.0.'], ['roberta.encoder.layer.1.']]);
  expect(partitionByLayer(['transformer.h.0.ln_1.weight', 'transformer.h.1.attn.c_attn.weight'])).toEqual([
    ['transformer.h.0.'],
    ['transformer.h.1.'],
  ]);
  const t5 = [
    'encoder.block.0.layer.0.a.weight',
    'encoder.block.0.layer.1.b.weight',
    'decoder.block.0.layer.0.a.weight',
  ];
  expect(partitionByLayer(t5)).toEqual([['encoder.block.0.'], ['decoder.block.0.']]);
});

test('by attention and MLP: two blocks per layer, norms between them in none', () => {
  const blocks = [0, 1, 2, 3, 10, 11].flatMap((i) => [[`model.layers.${i}.self_attn.`], [`model.layers.${i}.mlp.`]]);
  expect(partitionByAttentionMlp(llama)).toEqual(blocks);
  const [attention, mlp] = planBlocks(roberta, { blockPrefixList: partitionByAttentionMlp(roberta) }).blocks;
  expect(attention.names).toEqual(roberta.slice(3, 7));
  expect(mlp.prefixes).toEqual(['roberta.encoder.layer.0.intermediate.', 'roberta.encoder.layer.0.output.']);
  expect(mlp.names).toEqual(roberta.slice(7, 10));
});

test('by matrix: one block per linear module, its bias included', () => {
  const blocks = planBlocks(llama, { blockPrefixList: partitionByMatrix(llama) }).blocks;
  expect(blocks.length).toBe(6 * 6);
  expect(blocks.slice(0, 3).map(({ names }) => names)).toEqual([
    ['model.layers.0.self_attn.q_proj.weight'],
    ['model.layers.0.self_attn.k_proj.weight', 'model.layers.0.self_attn.k_proj.bias'],
    ['model.layers.0.self_attn.o_proj.weight'],
  ]);
  expect(partitionByMatrix(roberta)[0]).toEqual(['roberta.encoder.layer.0.attention.self.query.']);
  expect(partitionByMatrix(roberta).length).toBe(8);
});

test('the default leaves embedding, final norm and head frozen; layer 1 is not layer 10', () => {
  const { blocks, active } = planBlocks(llama);
  expect(blocks.map(({ names }) => names.length)).toEqual(Array(6).fill(9));
  expect(blocks[1].names).toEqual(llamaLayer.map((name) => `model.layers.1.${name}`));
  expect(active).toEqual([]);
});

test('the embedding is the first block, the head with the final norm the last', () => {
  const { blocks } = planBlocks(llama, { includeEmbedding: true, includeLmHead: true });
  expect(blocks.length).toBe(8);
  expect(blocks[0].names).toEqual(['model.embed_tokens.weight']);
  expect(blocks[7].names).toEqual(['lm_head.weight', 'model.norm.weight']);
  // Alone it does not train the embedding, as the official package does.
  expect(planBlocks(llama, { includeLmHead: true }).blocks.at(-1)!.names).toEqual([
    'lm_head.weight',
    'model.norm.weight',
  ]);
  const bert = planBlocks(roberta, { includeEmbedding: true, includeLmHead: true }).blocks;
  expect(bert[0]).toEqual({ index: 0, prefixes: ['roberta.embeddings.'], names: roberta.slice(0, 3) });
  expect(bert[3].names).toEqual(roberta.slice(-2));
});

test('a tied head is trained in one block: the embedding’s, else the head’s', () => {
  const both = planBlocks(tied, { includeEmbedding: true, includeLmHead: true }).blocks;
  expect([both[0].names, both.at(-1)!.names]).toEqual([['model.embed_tokens.weight'], ['model.norm.weight']]);
  const head = planBlocks(tied, { includeLmHead: true }).blocks;
  expect(head.at(-1)!.names).toEqual(['model.embed_tokens.weight', 'model.norm.weight']);
});

test('active modules leave their block', () => {
  const { blocks, active } = planBlocks(llama, { activeModules: ['input_layernorm', 'model.norm.'] });
  expect(active.length).toBe(7);
  expect(blocks[0].names.length).toBe(8);
});

test('all problems come in one error, with near matches', () => {
  const options = {
    blockPrefixList: [['model.layer.0.'], [], ['model.layers.1.', ''], ['layers.1.mlp', 'lm_head.'], ['model.norm.']],
    activeModules: ['model.norm', 'score'],
  };
  const count = llama.length;
  const such = `there are ${count}, such as lm_head.weight`;
  expect(() => planBlocks(llama, options)).toThrow(
    new UserError(
      [
        "BlockOptimizer's options: 6 problems",
        `activeModules: no parameter matches the prefix "score"; ${such}`,
        `blockPrefixList[0]: no parameter matches the prefix "model.layer.0." (did you mean model.layers.0.?); ${such}`,
        'blockPrefixList[1] is empty, expected at least one prefix',
        `blockPrefixList[2]: no parameter matches the prefix ""; ${such}`,
        'blockPrefixList[4] (model.norm.) has no parameter left: activeModules take them all',
        'blockPrefixList[2] and blockPrefixList[3] both contain model.layers.1.mlp.gate_proj.weight and 2 more: a parameter belongs to one block',
      ].join('\n  - '),
    ),
  );
  expect(() => planBlocks(llama, { blockPrefixList: [] })).toThrow(
    'blockPrefixList is empty, expected at least one block',
  );
  expect(() => planBlocks(['a.weight', 'b.weight'])).toThrow(
    'none of the 2 parameter names has a layer number (as in layers.0., layer.0., h.0. or block.0.): give blockPrefixList',
  );
  expect(() => planBlocks(['layers.0.weight'], { includeEmbedding: true, includeLmHead: true })).toThrow(
    "BlockOptimizer's options: 2 problems\n  - the block of includeEmbedding is empty, expected at least one prefix\n  - the block of includeLmHead is empty, expected at least one prefix",
  );
});

test('norms and biases are told by their names', () => {
  const exempt = [
    'model.norm.weight',
    'a.input_layernorm.weight',
    'x.LayerNorm.bias',
    'q_proj.bias',
    'bias',
    'h.0.ln_1.weight',
  ];
  expect(exempt.filter(isNormOrBias)).toEqual(exempt);
  const decayed = ['model.embed_tokens.weight', 'a.mlp.up_proj.weight', 'normal.dense.weight', 'biased.weight'];
  expect(decayed.filter(isNormOrBias)).toEqual([]);
});
