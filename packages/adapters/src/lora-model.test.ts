import { bitnetWeightShapes, createBitNet, generate, llamaDecoder } from '@blockwise/model-zoo';
import { initTensorFlow, liveTensors, RawTensor } from '@blockwise/tensorflow';
import { beforeAll, expect, test } from 'vitest';
import type { LoraConfig } from './lora-config.ts';
import { applyLora, type LoraModel } from './lora-model.ts';
import { mergeAndUnload } from './merge.ts';
import { fill, floatsOf, largestDifference, logitsOf } from './run-model.test-support.ts';
import { tinyModel } from './tiny-model.test-support.ts';

beforeAll(() => initTensorFlow());

const ids = [3, 7, 5, 11, 2, 19];
const names = (model: LoraModel) => model.trainable.map(({ name }) => name.replace('base_model.model.', ''));

/** Adapters that matter: values of about a tenth of the weights'. */
function disturb(model: LoraModel) {
  for (const [n, parameter] of model.trainable.entries()) {
    const start = floatsOf(parameter);
    const own = parameter.name.includes('.lora_') ? 0 : 1;
    fill(parameter, (i) => own * start[i] + 0.2 * Math.sin(0.7 * i + n));
  }
}

test('a fresh adapter changes nothing: B is 0, A uniform within 1 / sqrt(inputs), another for every seed and module', async () => {
  const base = tinyModel();
  const before = await logitsOf(base, ids);
  const model = applyLora(base, { r: 3, targetModules: 'all-linear' }, 5);
  expect(largestDifference(await logitsOf(model, ids), before)).toBe(0);
  const a = model.trainable.filter(({ name }) => name.endsWith('lora_A.weight'));
  expect(a.length).toBe(14);
  for (const parameter of a) {
    const bound = 1 / Math.sqrt(parameter.shape[1]);
    const sizes = floatsOf(parameter).map(Math.abs);
    expect(parameter.shape[0]).toBe(3);
    expect(Math.max(...sizes)).toBeLessThanOrEqual(bound);
    expect(Math.max(...sizes)).toBeGreaterThan(0.9 * bound);
    expect(sizes.reduce((sum, x) => sum + x, 0) / sizes.length / bound).toBeCloseTo(0.5, 0.7);
  }
  expect(new Set(a.map((parameter) => floatsOf(parameter)[0])).size).toBe(14);
  const twin = applyLora(tinyModel(), { r: 3, targetModules: 'all-linear' }, 5);
  const other = applyLora(tinyModel(), { r: 3, targetModules: 'all-linear' }, 6);
  expect(twin.trainable[0].bytes()).toEqual(model.trainable[0].bytes());
  expect(other.trainable[0].bytes()).not.toEqual(model.trainable[0].bytes());
  [model, twin, other].forEach((each) => each.dispose());
});

test.each<[Partial<LoraConfig>, string[]]>([
  [{}, [0, 1].flatMap((i) => ['q', 'v'].map((m) => `model.layers.${i}.self_attn.${m}_proj`))],
  [{ targetModules: ['self_attn.k_proj'], layersToTransform: [1] }, ['model.layers.1.self_attn.k_proj']],
  [{ targetModules: ['k_proj'], layersToTransform: [] }, [0, 1].map((i) => `model.layers.${i}.self_attn.k_proj`)],
  [
    { targetModules: 'model\\.layers\\.0\\.mlp\\..*' },
    ['gate', 'up', 'down'].map((m) => `model.layers.0.mlp.${m}_proj`),
  ],
  [{ targetModules: '(?i)(?P<path>model)\\.layers\\.0\\.self_attn\\.[QK]_proj\\Z' }, ['q', 'k'].map((m) => `model.layers.0.self_attn.${m}_proj`)], // prettier-ignore
  [
    { targetModules: 'all-linear', excludeModules: ['mlp.up_proj', 'q_proj', 'v_proj', 'model.layers.0.mlp.gate_proj'], layersToTransform: undefined }, // prettier-ignore
    [0, 1].flatMap((i) => ['self_attn.k', 'self_attn.o', 'mlp.down'].map((m) => `model.layers.${i}.${m}_proj`)).concat('model.layers.1.mlp.gate_proj'), // prettier-ignore
  ],
  [{ excludeModules: '.*layers\\.0.*|.*v_proj' }, ['model.layers.1.self_attn.q_proj']],
  [{ targetModules: ['lm_head'] }, ['lm_head']],
  [{ targetModules: 'all-linear', modulesToSave: ['mlp.up_proj'], layersToTransform: undefined }, [0, 1].flatMap((i) => ['self_attn.q', 'self_attn.k', 'self_attn.v', 'self_attn.o', 'mlp.gate', 'mlp.down'].map((m) => `model.layers.${i}.${m}_proj`))], // prettier-ignore
])('%j adapts the modules that PEFT would', (options, expected) => {
  const model = applyLora(tinyModel(), options);
  const adapted = names(model).filter((name) => name.endsWith('.lora_A.weight'));
  expect(adapted.map((name) => name.replace('.lora_A.weight', '')).sort()).toEqual([...expected].sort());
  model.dispose();
});

test('merged weights say what the adapters said, and unmerge brings back the bits of the base', async () => {
  const before = liveTensors();
  const model = applyLora(tinyModel(), { r: 2, targetModules: 'all-linear', modulesToSave: ['norm'], useRslora: true });
  disturb(model);
  const bits = [...model.parameters.values()].map((parameter) => parameter.bytes());
  const adapted = await logitsOf(model, ids);
  model.merge();
  expect(model.merged).toBe(true);
  expect(model.stages[1].parameters.has('self_attn.q_proj.lora_A.weight')).toBe(false);
  const merged = await logitsOf(model, ids);
  model.unmerge();
  expect(largestDifference(await logitsOf(model, ids), adapted)).toBe(0);
  expect([...model.parameters.values()].map((parameter) => parameter.bytes())).toEqual(bits);
  const scale = Math.max(...adapted.map(Math.abs));
  expect(largestDifference(merged, adapted)).toBeLessThan(1e-5 * scale);

  const plain = model.unload();
  const base = await logitsOf(plain, ids);
  expect(largestDifference(base, adapted)).toBeGreaterThan(0.01 * scale);
  plain.dispose();
  expect(liveTensors()).toBe(before);
});

test.each([
  ['neither of two tied weights', [], true],
  ['the embedding', ['embed_tokens'], false],
  ['the head', ['lm_head'], false],
  ['both', ['embed_tokens', 'lm_head'], false],
])('mergeAndUnload with copies of %s: tied only if neither changed', async (_, modulesToSave, tied) => {
  const before = liveTensors();
  const model = applyLora(tinyModel({ tie_word_embeddings: true }), { modulesToSave, loraDropout: 0.1 });
  disturb(model);
  const adapted = await logitsOf(model, ids);
  const merged = mergeAndUnload(model);
  expect(merged.config.tie_word_embeddings).toBe(tied);
  expect(merged.parameters.has('lm_head.weight')).toBe(!tied);
  expect([...merged.parameters.keys()].filter((name) => name.includes('lora'))).toEqual([]);
  const scale = Math.max(...adapted.map(Math.abs));
  expect(largestDifference(await logitsOf(merged, ids), adapted)).toBeLessThan(1e-5 * scale);
  merged.dispose();
  expect(liveTensors()).toBe(before);
});

test('a bfloat16 base keeps its dtype; its adapters are float32', () => {
  const model = applyLora(tinyModel({}, 'bfloat16'), { bias: 'all', modulesToSave: ['norm'] });
  const dtypes = new Set(model.trainable.map(({ storageDtype }) => storageDtype));
  expect([...dtypes]).toEqual(['float32']);
  disturb(model);
  const merged = mergeAndUnload(model);
  expect(new Set([...merged.parameters.values()].map(({ storageDtype }) => storageDtype))).toEqual(
    new Set(['bfloat16']),
  );
  merged.dispose();
});

test('generation with adapters on some layers only gives the text of the merged model', async () => {
  const model = applyLora(tinyModel(), { loraAlpha: 40, targetModules: ['q_proj', 'down_proj'], layersToTransform: [1] }); // prettier-ignore
  disturb(model);
  const prompt = [3, 7, 5];
  const textOf = async (llama: typeof model) => (await generate(llamaDecoder(llama), prompt, { maxNewTokens: 20, temperature: 0, eosTokenIds: [] })).ids; // prettier-ignore
  const adapted = await textOf(model);
  const plain = await textOf(applyLora(tinyModel()));
  model.merge();
  expect(await textOf(model)).toEqual(adapted);
  expect(plain).not.toEqual(adapted);
  model.dispose();
});

test('dropout: the same batch and module give the same masks, others give others, and evaluation drops nothing', async () => {
  const model = applyLora(tinyModel(), { targetModules: 'all-linear', loraDropout: 0.5 }, 1);
  disturb(model);
  const plain = await logitsOf(model, ids);
  const first = await logitsOf(model, ids, 7);
  expect(largestDifference(await logitsOf(model, ids, 7), first)).toBe(0);
  expect(largestDifference(await logitsOf(model, ids, 8), first)).toBeGreaterThan(0.01);
  expect(largestDifference(plain, first)).toBeGreaterThan(0.01);
  const twin = applyLora(tinyModel(), { targetModules: 'all-linear', loraDropout: 0.5 }, 2);
  disturb(twin);
  expect(largestDifference(await logitsOf(twin, ids, 7), first)).toBeGreaterThan(0.01);
  expect(largestDifference(await logitsOf(twin, ids), plain)).toBe(0);
  [model, twin].forEach((each) => each.dispose());
});

test('all options that are wrong or match nothing are told at once, and the base stays as it was', async () => {
  const base = tinyModel();
  const count = liveTensors();
  const wrong = { r: 0, loraDropout: 1, targetModules: ['q_prj'], layersToTransform: [2], modulesToSave: ['pooler'] };
  let message = '';
  try {
    applyLora(base, wrong);
  } catch (error) {
    expect((error as Error).name).toBe('UserError');
    message = (error as Error).message;
  }
  expect(message.split('\n  - ')).toEqual([
    "LoRA's options: 5 problems",
    'r is 0, expected a whole number from 1',
    'loraDropout is 1, expected a number in [0, 1)',
    'targetModules: no linear module is called q_prj; there are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head. (modulesToSave trains other modules in full)', // prettier-ignore
    "modulesToSave: no module's name ends with pooler",
    'layersToTransform: there is no layer 2',
  ]);
  expect(() => applyLora(base, { targetModules: 'q_proj' })).toThrow('matches none of the linear modules');
  expect(() => applyLora(base, { targetModules: '(' })).toThrow(
    /^LoRA's options: targetModules is no regular expression \(.*\)$/,
  );
  expect(() => applyLora(base, { excludeModules: '(?x) .' })).toThrow(
    /^LoRA's options: excludeModules is no regular expression/,
  );
  expect(() => applyLora(base, { excludeModules: ['self_attn.q_proj', 'v_proj'] })).toThrow(
    'matches none of the linear modules (q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head) that excludeModules ["self_attn.q_proj","v_proj"] leaves', // prettier-ignore
  );
  expect(() => applyLora(base, { rank: 4, loraAlfa: 8, r: 0 } as never)).toThrow(
    [
      "LoRA's options: 3 problems",
      'there is no option rank; there are r, loraAlpha, loraDropout, targetModules, excludeModules, bias, useRslora, modulesToSave, layersToTransform, initLoraWeights', // prettier-ignore
      'there is no option loraAlfa (did you mean loraAlpha?); there are r, loraAlpha, loraDropout, targetModules, excludeModules, bias, useRslora, modulesToSave, layersToTransform, initLoraWeights', // prettier-ignore
      'r is 0, expected a whole number from 1',
    ].join('\n  - '),
  );
  expect(() => applyLora(base, { targetModules: ['lm_head'], loraDropout: 0.1 })).toThrow('which lm_head cannot have');
  expect(() => applyLora(base, { targetModules: 'all-linear', layersToTransform: [0] })).toThrow('goes with a list');
  expect(liveTensors()).toBe(count);
  expect((await logitsOf(base, ids)).every(Number.isFinite)).toBe(true);
  base.dispose();
});

test('a BitNet with adapters is not folded into a plain Llama, which has neither its norms nor its rounding', () => {
  const { config } = tinyModel();
  const weights = [...bitnetWeightShapes(config)].map(([name, shape]) => {
    const values = new Float32Array(shape.reduce((product, size) => product * size, 1)).fill(0.1);
    return [name, RawTensor.fromBytes(new Uint8Array(values.buffer), shape, 'float32')] as const;
  });
  const model = applyLora(createBitNet(config, new Map(weights)), { r: 2, targetModules: 'all-linear' });
  expect(() => mergeAndUnload(model)).toThrow(
    /the base has model\.layers\.0\..*_sub_norm\.weight, which no plain Llama has/,
  );
  model.dispose();
});
