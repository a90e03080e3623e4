import { initTensorFlow, liveTensors } from '@blockwise/tensorflow';
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { llamaWeightShapes } from './config.ts';
import { freshLlama, saveFreshLlama, saveHollowLlama } from './fresh-weights.ts';
import type { Llama } from './llama.ts';
import { openLlama } from './llama-files.ts';
import { tinyLlamaConfig } from './tiny-llama.test-support.ts';

const config = { ...tinyLlamaConfig({ attention_bias: true }), vocab_size: 2000, hidden_size: 64, head_dim: 16 };
const folder = mkdtempSync(join(tmpdir(), 'fresh-llama-'));

beforeAll(() => initTensorFlow());
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const floats = (model: Llama, name: string) => new Float32Array(model.parameters.get(name)!.bytes().slice().buffer);
const contents = ({ parameters }: Llama) =>
  [...parameters].map(([name, parameter]) => `${name} ${Buffer.from(parameter.bytes()).toString('base64')}`);

describe('freshLlama', () => {
  test('draws matrices from a normal distribution of initializer_range, with norms 1 and biases 0', () => {
    const model = freshLlama({ ...config, initializer_range: 0.05 }, { seed: 1 });
    for (const name of ['model.embed_tokens.weight', 'lm_head.weight']) {
      const values = floats(model, name);
      const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
      const deviation = Math.sqrt(values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / values.length);
      const within = values.filter((x) => Math.abs(x) < 0.05).length / values.length;
      // 128,000 values: standard errors 1.4e-4, 1e-4 and 1.3e-3. A uniform one of equal deviation has 0.577 within.
      expect(mean).toBeCloseTo(0, 3);
      expect(Math.abs(deviation - 0.05)).toBeLessThan(5e-4);
      expect(Math.abs(within - 0.6827)).toBeLessThan(6e-3);
    }
    expect(new Set(floats(model, 'model.layers.1.post_attention_layernorm.weight'))).toEqual(new Set([1]));
    expect(new Set(floats(model, 'model.norm.weight'))).toEqual(new Set([1]));
    expect(new Set(floats(model, 'model.layers.0.self_attn.q_proj.bias'))).toEqual(new Set([0]));
    model.dispose();
  });

  test('is a function of the seed, and no two weights are alike', () => {
    const [one, same, other] = [7, 7, 8].map((seed) => freshLlama(config, { seed }));
    expect(contents(same)).toEqual(contents(one));
    const matrix = (model: Llama, layer: number) => floats(model, `model.layers.${layer}.mlp.up_proj.weight`);
    expect(matrix(other, 0)).not.toEqual(matrix(one, 0));
    expect(matrix(one, 1)).not.toEqual(matrix(one, 0));
    [one, same, other].forEach((model) => model.dispose());
  });

  test('keeps the dtype asked for and leaves nothing behind', () => {
    const before = liveTensors();
    const model = freshLlama(config, { seed: 1, dtype: 'bfloat16' });
    expect(new Set([...model.parameters.values()].map(({ storageDtype }) => storageDtype))).toEqual(
      new Set(['bfloat16']),
    );
    expect(liveTensors() - before).toBe(llamaWeightShapes(config).size);
    model.dispose();
    expect(liveTensors()).toBe(before);
  });
});

test('saveFreshLlama writes, in several files, the model that freshLlama makes', async () => {
  const before = liveTensors();
  await saveFreshLlama(folder, config, { seed: 3, dtype: 'bfloat16' });
  expect(liveTensors()).toBe(before);
  expect(readdirSync(folder).filter((name) => name.endsWith('.safetensors')).length).toBeGreaterThan(2);
  const { model: opened, warnings } = openLlama(folder);
  const fresh = freshLlama(config, { seed: 3, dtype: 'bfloat16' });
  expect(warnings).toEqual([]);
  expect(contents(opened)).toEqual(contents(fresh));
  opened.dispose();
  fresh.dispose();
});

describe('saveHollowLlama', () => {
  test('leaves a model that opens, with weights of zeros that take no room on the disk', async () => {
    const hollow = join(folder, 'hollow');
    await saveHollowLlama(hollow, config, 'bfloat16');
    const { model } = openLlama(hollow, { dtype: 'bfloat16' });
    const shapes = [...model.parameters].map(([name, { shape }]) => [name, [...shape]]);
    expect(new Map(shapes as [string, number[]][])).toEqual(llamaWeightShapes(config));
    expect(new Set(floats(model, 'lm_head.weight'))).toEqual(new Set([0]));
    model.dispose();
    const { size, blocks } = statSync(join(hollow, 'model.safetensors'));
    expect(size).toBeGreaterThan(500_000);
    expect(blocks * 512).toBeLessThan(50_000);
  });
});
