import { openLlama, saveLlama, writeSafetensors } from '@blockwise/model-zoo';
import { cast, initTensorFlow, liveTensors, type Parameter } from '@blockwise/tensorflow';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { loadAdapter, saveAdapter } from './adapter-files.ts';
import { applyLora } from './lora-model.ts';
import type { LoraConfig } from './lora-config.ts';
import { mergeAndUnload } from './merge.ts';
import { quantizeModelNf4 } from './nf4-model.ts';
import { quantizeModel } from './quantize-model.ts';
import { largestDifference, logitsOf } from './run-model.test-support.ts';
import { dataFolder, hasData } from './stories-data.test-support.ts';
import { tinyModel } from './tiny-model.test-support.ts';

/** A folder that PEFT wrote, and what PEFT's model says with it: made by tools/golden/peft_trajectories.py. */
const peftFolder = fileURLToPath(new URL('golden/peft-adapter', import.meta.url));
const golden = JSON.parse(readFileSync(new URL('golden/peft-trajectories.json', import.meta.url), 'utf8')).saved as {
  inputIds: number[][];
  logits: { shape: number[]; float32: string };
  mergedBfloat16: { layer2DownProj: { float32: string }; logits: { float32: string } };
};
const floats = ({ float32 }: { float32: string }) => new Float32Array(new Uint8Array(Buffer.from(float32, 'base64')).buffer); // prettier-ignore
const openStories = (dtype: 'float32' | 'bfloat16') => openLlama(join(dataFolder, 'models/stories260K'), { dtype });

const scratch = mkdtempSync(join(tmpdir(), 'adapter-'));
afterAll(() => rmSync(scratch, { recursive: true }));
beforeAll(() => initTensorFlow());

/** The last rows of our logits beside PEFT's. */
const beside = (ours: Float32Array, expected: Float32Array) =>
  largestDifference(ours.subarray(ours.length - expected.length), expected);

describe.skipIf(!hasData)('on stories260K', () => {
  test("an adapter that PEFT saved gives PEFT's logits", async () => {
    const model = loadAdapter(openStories('float32').model, peftFolder);
    expect(beside(await logitsOf(model, golden.inputIds[0]), floats(golden.logits))).toBeLessThan(1e-4);
    model.dispose();
  });

  test("merged into bfloat16 it has PEFT's bits, and an untied head in a folder that opens again", async () => {
    const opened = openStories('bfloat16');
    const merged = mergeAndUnload(loadAdapter(opened.model, peftFolder));
    expect(merged.config.tie_word_embeddings).toBe(false);
    const stored = merged.parameters.get('model.layers.2.mlp.down_proj.weight')!.acquire();
    const weight = cast(stored);
    const expected = floats(golden.mergedBfloat16.layer2DownProj);
    expect((await weight.data()).slice(0, expected.length)).toEqual(expected);
    weight.dispose();
    const logits = await logitsOf(merged, golden.inputIds[0]);
    expect(beside(logits, floats(golden.mergedBfloat16.logits))).toBeLessThan(1e-4);
    await saveLlama(join(scratch, 'merged'), { model: merged, json: opened.json });
    const again = openLlama(join(scratch, 'merged')).model;
    expect(await logitsOf(again, golden.inputIds[0])).toEqual(logits);
    [merged, again].forEach((model) => model.dispose());
  });
});

test('what saveAdapter writes, loadAdapter reads, bit for bit', async () => {
  const folder = join(scratch, 'saved');
  const options = { r: 3, loraAlpha: 5, targetModules: 'all-linear', modulesToSave: ['lm_head'], useRslora: true, initLoraWeights: false }; // prettier-ignore
  const model = applyLora(tinyModel(), options, 4);
  await saveAdapter(folder, model, { baseModelNameOrPath: 'tiny' });
  const config = JSON.parse(readFileSync(join(folder, 'adapter_config.json'), 'utf8'));
  expect(config).toMatchObject({ peft_type: 'LORA', r: 3, lora_alpha: 5, use_rslora: true, base_model_name_or_path: 'tiny' }); // prettier-ignore
  expect(config.target_modules).toEqual(['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj']);
  const again = loadAdapter(tinyModel(), folder);
  expect(again.trainable.map(({ name }) => name)).toEqual(model.trainable.map(({ name }) => name));
  again.trainable.forEach((parameter, i) => expect(parameter.bytes()).toEqual(model.trainable[i].bytes()));
  [model, again].forEach((each) => each.dispose());
});

test("a weight of the base in the file is refused unless it is this base's, and the base is then still the caller's", async () => {
  const folder = join(scratch, 'head');
  const model = applyLora(tinyModel(), { r: 2, targetModules: ['q_proj', 'lm_head'] });
  await saveAdapter(folder, model, { baseModelNameOrPath: 'tiny' });
  const own = model.parameters.get('lm_head.weight')!;
  const saved = model.trainable.map(({ name, shape, storageDtype, bytes }, i) => {
    return [name, { dtype: storageDtype, shape: [...shape], bytes: () => bytes.call(model.trainable[i]) }] as const;
  });
  const head = own.bytes();
  const write = (bytes: Uint8Array) => {
    const entry = { dtype: 'float32', shape: [...own.shape], bytes: () => bytes } as const;
    return writeSafetensors(join(folder, 'adapter_model.safetensors'), [
      ...saved,
      ['base_model.model.lm_head.base_layer.weight', entry],
    ]);
  };
  // A layer's own weight, not that of the first layer with such a module.
  const upper = model.parameters.get('model.layers.1.self_attn.q_proj.weight')!;
  const entry = { dtype: 'float32', shape: [...upper.shape], bytes: () => upper.bytes() } as const;
  saved.push(['base_model.model.model.layers.1.self_attn.q_proj.base_layer.weight', entry]);
  await write(head);
  const again = loadAdapter(tinyModel(), folder);
  expect(again.trainable).toHaveLength(model.trainable.length);
  const other = head.slice();
  other[3] ^= 1;
  await write(other);
  const base = tinyModel();
  expect(() => loadAdapter(base, folder)).toThrow('the adapter is of another base');
  [model, again, base].forEach((each) => each.dispose());
});

test("embedding and head beside the adapter (PEFT's save_embedding_layers) are taken for the base's where they equal them", async () => {
  const folder = join(scratch, 'embeddings');
  const entry = ({ shape, ...parameter }: Parameter, bytes: Uint8Array) =>
    ({ ...parameter, dtype: 'float32', shape: [...shape], bytes: () => bytes }) as const;
  for (const tie_word_embeddings of [false, true]) {
    const model = applyLora(tinyModel({ tie_word_embeddings }));
    await saveAdapter(folder, model);
    const saved = model.trainable.map((p) => [p.name, entry(p, p.bytes())] as const);
    const embedding = model.parameters.get('model.embed_tokens.weight')!;
    const head = model.parameters.get('lm_head.weight') ?? embedding;
    const write = (headBytes: Uint8Array) =>
      writeSafetensors(join(folder, 'adapter_model.safetensors'), [
        ...saved,
        ['base_model.model.model.embed_tokens.weight', entry(embedding, embedding.bytes())],
        ['base_model.model.lm_head.weight', entry(head, headBytes)],
      ]);
    await write(head.bytes());
    const base = tinyModel({ tie_word_embeddings });
    const again = loadAdapter(base, folder);
    expect(again.trainable.map((p) => p.bytes())).toEqual(model.trainable.map((p) => p.bytes()));
    again.unload();
    await write(head.bytes().map((byte, i) => (i === 3 ? byte ^ 1 : byte)));
    expect(() => loadAdapter(base, folder)).toThrow(
      'base_model.model.lm_head.weight is not the weight that this base has there: the adapter is of another base, or trained the module, which modules_to_save in adapter_config.json has to name then', // prettier-ignore
    );
    [model, base].forEach((each) => each.dispose());
  }
});

const onlyUpperQuery = { targetModules: ['model.layers.1.self_attn.q_proj'] };
test.each<[Partial<LoraConfig>, object]>([
  [
    { targetModules: ['q_proj'], layersToTransform: [1] },
    { layers_pattern: 'layers', layers_to_transform: 1 },
  ],
  [{ targetModules: ['q_proj'], layersToTransform: [1] }, { layers_pattern: ['h', 'layers'] }],
  [onlyUpperQuery, { target_modules: ['q_proj'], exclude_modules: ['layers.0.self_attn.q_proj', 'vision_tower'] }],
  [onlyUpperQuery, { target_modules: ['q_proj'], exclude_modules: '.*\\.0\\..*' }],
  [onlyUpperQuery, { target_modules: '(?i)(?P<start>.*)\\.1\\..*Q_(?P<p>P)ROJ\\Z' }],
  [onlyUpperQuery, { init_lora_weights: 'orthogonal' }],
  [onlyUpperQuery, { init_lora_weights: 'eva', eva_config: { rho: 1 }, corda_config: { rho: 2 } }],
])('an adapter of %j whose config says %j is the plain LoRA that PEFT takes it for', async (options, changes) => {
  const folder = mkdtempSync(join(scratch, 'plain-'));
  const model = applyLora(tinyModel(), { ...options, initLoraWeights: false });
  await saveAdapter(folder, model);
  const path = join(folder, 'adapter_config.json');
  writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...changes }));
  const again = loadAdapter(tinyModel(), folder);
  expect(again.trainable.map(({ name }) => name)).toEqual(model.trainable.map(({ name }) => name));
  again.trainable.forEach((parameter, i) => expect(parameter.bytes()).toEqual(model.trainable[i].bytes()));
  await saveAdapter(folder, again);
  const resaved = loadAdapter(tinyModel(), folder);
  expect(resaved.trainable.map(({ name }) => name)).toEqual(model.trainable.map(({ name }) => name));
  [model, again, resaved].forEach((each) => each.dispose());
});

test.each([
  ['adapters', () => applyLora(tinyModel()), 'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight'],
  ['trained copies', () => applyLora(tinyModel(), { modulesToSave: ['lm_head'], targetModules: ['v_proj'] }), 'base_model.model.'], // prettier-ignore
  ['int8 codes', () => quantizeModel(tinyModel(), { bits: 8, symmetric: true, granularity: 'channel' }), 'model.layers.0.self_attn.q_proj.weight_scale'], // prettier-ignore
  ['NF4 codes', () => quantizeModelNf4(tinyModel()), 'model.layers.0.self_attn.q_proj.weight.absmax'],
])('saveLlama() writes no folder of a model with %s, which nothing could open', async (_, make, name) => {
  const model = make();
  const folder = join(scratch, 'unsaved');
  const attempt = saveLlama(folder, { model, json: {} });
  await expect(attempt).rejects.toMatchObject({ name: 'UserError' });
  await expect(attempt).rejects.toThrow(`the model has ${name}`);
  expect(existsSync(folder)).toBe(false);
  model.dispose();
});

test("all weights that do not fit are told at once, and the base is still the caller's", () => {
  const folder = join(scratch, 'other');
  cpSync(join(scratch, 'saved'), folder, { recursive: true });
  const path = join(folder, 'adapter_config.json');
  const config = JSON.parse(readFileSync(path, 'utf8'));
  writeFileSync(
    path,
    JSON.stringify({ ...config, modules_to_save: ['model.norm'], target_modules: config.target_modules.slice(1) }),
  );
  const base = tinyModel({ intermediate_size: 20 });
  const count = liveTensors();
  let message = '';
  try {
    loadAdapter(base, folder);
  } catch (error) {
    expect((error as Error).name).toBe('UserError');
    message = (error as Error).message;
  }
  expect(message).toContain(`${folder}: the weights do not fit adapter_config.json`);
  expect(message).toContain('missing base_model.model.model.norm.weight [16]');
  expect(message).toContain('unexpected base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight [3, 16]');
  expect(message.match(/found shape \[.*\], expected \[.*\] by adapter_config\.json/g)).toHaveLength(6);
  expect(liveTensors()).toBe(count);
  base.dispose();
});

test('options that mean other mathematics, or are no options, are told at once', () => {
  const folder = join(scratch, 'dora');
  cpSync(join(scratch, 'saved'), folder, { recursive: true });
  const path = join(folder, 'adapter_config.json');
  const config = JSON.parse(readFileSync(path, 'utf8'));
  const write = (changes: object) => writeFileSync(path, JSON.stringify({ ...config, ...changes }));
  write({ use_dora: true, r: 'eight', rank_pattern: { q_proj: 4 }, future: 1, alpha_pattern: {} });
  const base = tinyModel();
  expect(() => loadAdapter(base, folder)).toThrow(
    [
      `${path}: 4 problems`,
      'r is "eight", expected a number',
      'use_dora is true: this is not supported',
      'rank_pattern is {"q_proj":4}: this is not supported',
      'future is 1: this is not supported',
    ].join('\n  - '),
  );
  write({ init_lora_weights: 'pissa', layers_pattern: 'h', layers_to_transform: 'all' });
  expect(() => loadAdapter(base, folder)).toThrow(
    [
      `${path}: 3 problems`,
      'layers_to_transform is "all", expected numbers of layers',
      'init_lora_weights is "pissa", expected true, false, gaussian, eva, orthogonal',
      'layers_pattern is "h": this is not supported',
    ].join('\n  - '),
  );
  for (const key of ['constructor', '__proto__']) {
    writeFileSync(path, JSON.stringify(config).replace('{', `{"${key}": 5, `));
    expect(() => loadAdapter(base, folder)).toThrow(`${path}: ${key} is 5: this is not supported`);
  }
  write({ target_modules: '((([a-z_.0-9]+)+)+)+X' }); // takes centuries
  expect(() => loadAdapter(base, folder)).toThrow('targetModules: the regular expression takes more than a second on ');
  write({ r: 1e9 });
  expect(() => loadAdapter(base, folder)).toThrow(`${path}: r is 1000000000, more than adapter_model.safetensors`);
  write({ r: 0 });
  expect(() => loadAdapter(base, folder)).toThrow(`${path}: r is 0, expected a whole number from 1`);
  expect(() => loadAdapter(base, scratch)).toThrow(
    `${scratch}: no adapter_config.json: it is no folder of a PEFT adapter`,
  );
  rmSync(join(folder, 'adapter_model.safetensors'));
  writeFileSync(path, JSON.stringify(config));
  expect(() => loadAdapter(base, folder)).toThrow('no adapter_model.safetensors');
  base.dispose();
});
