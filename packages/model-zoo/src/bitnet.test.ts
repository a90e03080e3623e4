import { cast, initTensorFlow, liveTensors, RawTensor, tf, toRaw } from '@blockwise/tensorflow';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { parseBitNetConfig } from './bitnet-config.ts';
import { bitNetFromLlama, openBitNet, packBitNet, saveHollowBitNet, type OpenedBitNet } from './bitnet-files.ts';
import { createBitNet, type BitNet } from './bitnet.ts';
import { writeConfig } from './config-file.ts';
import { generate } from './generation.ts';
import {
  bytesOf,
  largestError,
  logitsOf,
  lossAndGradients,
  valuesOf,
  type Encoded,
} from './golden-model.test-support.ts';
import type { JsonObject } from './json-object.ts';
import { llamaDecoder } from './llama-decoder.ts';
import { saveLlama } from './llama-files.ts';
import { stageWeights } from './stage-weights.ts';
import { tinyLlama } from './tiny-llama.test-support.ts';

/** Made by tools/golden/bitnet.py with transformers; versions inside. */
interface Golden {
  inputIds: number[][];
  attentionMask: number[][];
  labels: number[][];
  variants: {
    name: string;
    config: JsonObject;
    weights: Record<string, Encoded>;
    logits: Encoded;
    loss: number;
    gradients: Record<string, Encoded>;
    packed: Record<string, number[][]>;
    packedLogits: Encoded;
  }[];
}
const golden = JSON.parse(readFileSync(new URL('golden/bitnet.json', import.meta.url), 'utf8')) as Golden;
const [first] = golden.variants;

function build({ config, weights }: (typeof golden.variants)[number]): OpenedBitNet {
  const raw = Object.entries(weights).map(
    ([name, encoded]) => [name, RawTensor.fromBytes(bytesOf(encoded), encoded.shape, 'float32')] as const,
  );
  return { model: createBitNet(parseBitNetConfig(config).config, new Map(raw)), json: config, warnings: [] };
}

/** Weights as a stage gets them: floats, and packed ones as whole numbers. */
const weightsOf = (model: BitNet) =>
  stageWeights([...model.parameters].map(([name, parameter]) => [name, parameter.acquire()] as const));

function logits(model: BitNet) {
  return tf.tidy(() => logitsOf(model, weightsOf(model) as Record<string, tf.Tensor>, golden.inputIds).dataSync());
}

/** Rows of real tokens: the others are nobody's. */
function realRows(values: ArrayLike<number>): Float32Array {
  const mask = golden.attentionMask.flat();
  const width = values.length / mask.length;
  return Float32Array.from(values).filter((_, i) => mask[Math.floor(i / width)] === 1);
}

let before: number;
beforeAll(() => initTensorFlow());

describe.each(golden.variants)('a BitNet with $name', (variant) => {
  beforeEach(() => void (before = liveTensors()));
  afterEach(() => expect(liveTensors()).toBe(before));

  it("gives transformers' logits within 1e-5 of the largest", () => {
    const { model } = build(variant);
    expect(largestError(realRows(logits(model)), realRows(valuesOf(variant.logits)))).toBeLessThan(1e-5);
    model.dispose();
  });

  it("gives torch's loss and the straight-through gradient of every weight", () => {
    tf.tidy(() => {
      const { model } = build(variant);
      const weights = Object.fromEntries([...model.parameters].map(([name, p]) => [name, cast(p.acquire())]));
      const found = lossAndGradients(model, weights, golden.inputIds, golden.labels);
      model.dispose();
      expect(found.loss).toBeCloseTo(variant.loss, 5);
      expect([...found.gradients.keys()].sort()).toEqual(Object.keys(variant.gradients).sort());
      for (const [name, expected] of Object.entries(variant.gradients))
        expect([name, largestError(found.gradients.get(name)!, valuesOf(expected)) < 5e-5]).toEqual([name, true]);
    });
  });

  it("packs to transformers' bytes and gives the logits of its BitLinear", () => {
    const { model } = packBitNet(build(variant));
    for (const [name, rows] of Object.entries(variant.packed)) {
      const parameter = model.parameters.get(name)!;
      expect([name, parameter.storageDtype, ...parameter.bytes()]).toEqual([name, 'uint8', ...rows.flat()]);
      expect(model.parameters.get(`${name}_scale`)!.shape).toEqual([1]);
    }
    expect(Object.keys(variant.packed).length).toBe(14);
    expect(largestError(realRows(logits(model)), realRows(valuesOf(variant.packedLogits)))).toBeLessThan(1e-5);
    model.dispose();
  });
});

describe('files of a BitNet', () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'bitnet-'));
    before = liveTensors();
  });
  afterEach(async () => {
    expect(liveTensors()).toBe(before);
    await rm(folder, { recursive: true });
  });

  it.each([true, false])('come back with the same logits and config, packed: %s', async (packed) => {
    const opened = packed ? packBitNet(build(first)) : build(first);
    const expected = logits(opened.model);
    await saveLlama(folder, opened);
    opened.model.dispose();
    const again = openBitNet(folder);
    expect(logits(again.model)).toEqual(expected);
    again.model.dispose();
    const json = JSON.parse(await readFile(join(folder, 'config.json'), 'utf8')) as JsonObject;
    expect(json.quantization_config).toEqual({
      quant_method: 'bitnet',
      linear_class: packed ? 'bitlinear' : 'autobitlinear',
      quantization_mode: packed ? 'offline' : 'online',
    });
  });

  it('packed from a model in training are those of the model that is saved: its weights as they are rounded for the file', async () => {
    const { model, json } = build(first);
    // At rest in bfloat16, and trained from the golden's float32 values.
    const weights = [...model.parameters].map(([name, parameter]): [string, RawTensor] => {
      const values = cast(parameter.acquire());
      const stored = toRaw(values, 'bfloat16');
      values.dispose();
      return [name, stored];
    });
    const trained = { model: createBitNet(model.config, new Map(weights)), json, warnings: [] };
    for (const [name, parameter] of trained.model.parameters) {
      parameter.activate();
      parameter.replace(model.parameters.get(name)!.take());
    }
    model.dispose();
    await saveLlama(folder, trained);
    const saved = openBitNet(folder, { streamed: true });
    const expected = logits(saved.model);
    const [fromFile, fromTraining] = [packBitNet(saved), packBitNet(trained)].map(({ model }) => model);
    for (const [name, parameter] of fromFile.parameters)
      expect([name, fromTraining.parameters.get(name)!.bytes()]).toEqual([name, parameter.bytes()]);
    expect(largestError(logits(fromTraining), Float32Array.from(expected))).toBeLessThan(1e-5);
    [fromFile, fromTraining].forEach((packed) => packed.dispose());
  });

  it('are streamed where that is asked', async () => {
    const opened = build(first);
    await saveLlama(folder, opened);
    opened.model.dispose();
    const { model } = openBitNet(folder, { streamed: true });
    expect([...model.parameters.values()].every(({ isStreamed }) => isStreamed)).toBe(true);
    model.dispose();
  });

  it.each(['online', 'autobitlinear'] as const)('without weights open as a BitNet, %s', async (storage) => {
    const { config } = parseBitNetConfig(first.config);
    await saveHollowBitNet(folder, { config, storage }, 'bfloat16');
    const { model } = openBitNet(folder);
    expect(model.config).toEqual({ ...config, dtype: 'bfloat16' });
    const { storageDtype } = model.parameters.get('model.layers.0.mlp.up_proj.weight')!;
    expect(storageDtype).toBe(storage === 'online' ? 'bfloat16' : 'uint8');
    model.dispose();
  });

  it('with a head that differs from the embedding open untied, whatever config.json says', async () => {
    const opened = build(first);
    const expected = logits(opened.model);
    await saveLlama(folder, opened);
    opened.model.dispose();
    await writeConfig(folder, { ...opened.json, tie_word_embeddings: true }, 'float32');
    const { model, warnings } = openBitNet(folder);
    expect(logits(model)).toEqual(expected);
    expect([model.config.tie_word_embeddings, warnings.length]).toEqual([false, 1]);
    model.dispose();
  });

  it("that hold AutoBitLinear's packed weights, whose scale multiplies, give the same", async () => {
    const opened = packBitNet(build(first));
    const expected = logits(opened.model);
    const quantization_config = { quant_method: 'bitnet', linear_class: 'autobitlinear', quantization_mode: 'offline' };
    for (const parameter of opened.model.parameters.values()) {
      if (!parameter.name.endsWith('weight_scale')) continue;
      const scale = new Float32Array(parameter.bytes().slice().buffer)[0];
      const inverse = Float32Array.of(1 / scale);
      parameter.replace(RawTensor.fromBytes(new Uint8Array(inverse.buffer), [1], 'float32'));
    }
    await saveLlama(folder, { ...opened, json: { ...opened.json, quantization_config } });
    opened.model.dispose();
    const { model } = openBitNet(folder);
    expect(largestError(logits(model), Float32Array.from(expected))).toBeLessThan(1e-6);
    model.dispose();
  });
});

it('generates with a cache what it predicts without', async () => {
  const { model } = packBitNet(build(first));
  const prompt = golden.inputIds[0].slice(0, 6);
  const { ids } = await generate(llamaDecoder(model), prompt, { maxNewTokens: 6 });
  const sequence = [...prompt];
  for (let i = 0; i < 6; i++) {
    const row = tf.tidy(() => {
      const all = logitsOf(model, weightsOf(model) as Record<string, tf.Tensor>, [sequence]);
      return tf.argMax(tf.slice(all, [sequence.length - 1, 0], [1, all.shape[1]]), 1).dataSync()[0];
    });
    sequence.push(row);
  }
  expect([...ids]).toEqual(sequence.slice(prompt.length));
  model.dispose();
});

it('begins with the weights of a Llama, its sub-norms with 1', () => {
  const llama = tinyLlama({ intermediate_size: 12 });
  const query = llama.parameters.get('model.layers.0.self_attn.q_proj.weight')!.bytes();
  const { model, json } = bitNetFromLlama({
    model: llama,
    json: { model_type: 'llama', use_cache: true },
    warnings: [],
  });
  expect(model.parameters.get('model.layers.0.self_attn.q_proj.weight')!.bytes()).toEqual(query);
  const norm = model.parameters.get('model.layers.1.mlp.ffn_sub_norm.weight')!;
  expect([...new Float32Array(norm.bytes().slice().buffer)]).toEqual(Array(12).fill(1));
  const { config, storage } = parseBitNetConfig(json);
  // Also what the Llama's file left to its defaults.
  expect([config, storage]).toEqual([{ ...llama.config, dtype: 'float32' }, 'online']);
  expect(json.use_cache).toBe(true);
  model.dispose();
  llama.dispose();
});

it('names every setting of config.json that is not a BitNet of ours', () => {
  const { config } = first;
  const problems = (changes: JsonObject) => () => parseBitNetConfig({ ...config, ...changes });
  expect(problems({ quantization_config: undefined })).toThrow(
    /quantization_config: found nothing, expected one such as/,
  );
  expect(problems({ hidden_act: 'gelu', model_type: 'llama', quantization_config: { quant_method: 'gptq' } })).toThrow(
    /3 problems[^]*quant_method: found "gptq"[^]*model_type: found "llama"[^]*hidden_act: found "gelu"/,
  );
});

it('refuses to pack rows that are not a multiple of four', () => {
  const { model, json } = bitNetFromLlama({
    ...{ model: tinyLlama({ intermediate_size: 10 }), json: {}, warnings: [] },
  });
  expect(() => packBitNet({ model, json, warnings: [] })).toThrow('mlp.gate_proj.weight has 10');
  model.dispose();
});
