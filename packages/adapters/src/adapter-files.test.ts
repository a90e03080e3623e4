import { openLlama, saveLlama, writeSafetensors } from '@blockwise/model-zoo';
import { cast, initTensorFlow, liveTensors } from '@blockwise/tensorflow';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { loadAdapter, saveAdapter } from './adapter-files.ts';
import { applyLora } from './lora-model.ts';
import { mergeAndUnload } from './merge.ts';
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

test("all weights that do not fit are told at once, and the base is still the caller's", () => {
  const folder = join(scratch, 'other');
  cpSync(join(scratch, 'saved'), folder, { recursive: true });
  const path = join(folder, 'adapter_config.json');
  const config = JSON.parse(readFileSync(path, 'utf8'));
  writeFileSync(path, JSON.stringify({ ...config, modules_to_save: ['model.norm'] }));
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
  expect(message).toContain('unexpected base_model.model.lm_head.weight [24, 16]');
  expect(message.match(/found shape \[.*\], expected \[.*\] by adapter_config\.json/g)).toHaveLength(6);
  expect(liveTensors()).toBe(count);
  base.dispose();
});

test('options that mean other mathematics, or are no options, are told at once', () => {
  const folder = join(scratch, 'dora');
  cpSync(join(scratch, 'saved'), folder, { recursive: true });
  const path = join(folder, 'adapter_config.json');
  const config = JSON.parse(readFileSync(path, 'utf8'));
  writeFileSync(path, JSON.stringify({ ...config, use_dora: true, r: 'eight', rank_pattern: { q_proj: 4 }, future: 1, alpha_pattern: {} })); // prettier-ignore
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
  expect(() => loadAdapter(base, scratch)).toThrow(
    `${scratch}: no adapter_config.json: it is no folder of a PEFT adapter`,
  );
  rmSync(join(folder, 'adapter_model.safetensors'));
  writeFileSync(path, JSON.stringify(config));
  expect(() => loadAdapter(base, folder)).toThrow('no adapter_model.safetensors');
  base.dispose();
});
