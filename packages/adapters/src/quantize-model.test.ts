import { callStage, linearShapes, openLlama, stageInputs, type StagedModel } from '@blockwise/model-zoo';
import { compile, initTensorFlow, liveTensors, sparseSoftmaxCrossEntropy, tf } from '@blockwise/tensorflow';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { calibrate, type ActivationRanges } from './activation-ranges.ts';
import { quantizationAware } from './quantization-aware.ts';
import { quantizeModel, type ModelQuantization } from './quantize-model.ts';
import { applyLora } from './lora-model.ts';
import { mergeAndUnload } from './merge.ts';
import { quantizeModelNf4 } from './nf4-model.ts';
import { fill, largestDifference, logitsOf } from './run-model.test-support.ts';
import { tinyModel } from './tiny-model.test-support.ts';

/** The embedded model with rounded weights and inputs in transformers, made by tools/golden/quantized_llama.py; versions inside. */
interface Golden {
  groupSize: number;
  inputIds: number[][];
  loss: number;
  ranges: Record<string, [number, number]>;
  postTraining: (Pick<ModelQuantization, 'bits' | 'symmetric' | 'granularity'> & {
    activations: { bits: 8; symmetric: boolean; calibrated: boolean } | null;
    loss: number;
  })[];
}
const golden = JSON.parse(readFileSync(new URL('golden/quantized-llama.json', import.meta.url), 'utf8')) as Golden;
const embedded = fileURLToPath(new URL('../../../datasets/embedded/model', import.meta.url));
const open = () => openLlama(embedded, { dtype: 'float32' }).model;

const [rows, length] = [golden.inputIds.length, golden.inputIds[0].length];
const batch = {
  ...{ batchSize: rows, length, positionIds: Int32Array.from({ length: rows * length }, (_, i) => i % length) },
  inputIds: Int32Array.from(golden.inputIds.flat()),
};

/** Mean cross-entropy of all next tokens of the golden's batch. */
async function lossOf(model: StagedModel): Promise<number> {
  const context = model.context(batch);
  let x: tf.Tensor = tf.tensor1d(batch.inputIds, 'int32');
  for (const stage of model.stages) {
    const fn = compile('stage', (...inputs) => {
      const { weights, rest } = stageInputs(stage, inputs);
      return [stage.forward(weights, rest[0], rest.slice(1))];
    });
    const [y] = await callStage(fn, stage, [x, ...context]);
    x.dispose();
    fn.dispose();
    x = y;
  }
  return tf.tidy(() => {
    const predicting = golden.inputIds.flatMap((ids, row) => ids.slice(1).map((_, i) => row * length + i));
    const targets = golden.inputIds.flatMap((ids) => ids.slice(1));
    const logits = tf.gather(x, tf.tensor1d(predicting, 'int32')) as tf.Tensor2D;
    const [losses] = sparseSoftmaxCrossEntropy(logits, tf.tensor1d(targets, 'int32'));
    tf.dispose([x, ...context]);
    return tf.mean(losses).dataSync()[0];
  });
}

const rangesOf = (): ActivationRanges =>
  new Map(Object.entries(golden.ranges).map(([name, [min, max]]) => [name, { min, max }]));

function schemeOf(record: Golden['postTraining'][number]): ModelQuantization {
  const { bits, symmetric, granularity, activations } = record;
  return {
    ...{ bits, symmetric, granularity },
    ...(granularity === 'group' && { groupSize: golden.groupSize }),
    ...(activations && {
      activations: {
        ...{ bits: activations.bits, symmetric: activations.symmetric },
        ...(activations.calibrated && { ranges: rangesOf() }),
      },
    }),
  };
}

const bytesOf = (model: StagedModel) =>
  [...model.parameters.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);

let before: number;
beforeAll(() => initTensorFlow());
beforeEach(() => void (before = liveTensors()));
afterEach(() => expect(liveTensors()).toBe(before));

test('the model as it is has the loss that transformers gives', async () => {
  const model = open();
  expect(Math.abs((await lossOf(model)) / golden.loss - 1)).toBeLessThan(1e-5);
  model.dispose();
});

test.each(golden.postTraining)(
  "$bits bits, symmetric $symmetric, per $granularity, inputs $activations: the loss is torch's",
  async (record) => {
    const model = quantizeModel(open(), schemeOf(record));
    const loss = await lossOf(model);
    model.dispose();
    // Rounded inputs hang on the last bits of sums: a code more or less here and there.
    expect(Math.abs(loss / record.loss - 1)).toBeLessThan(record.activations ? 1e-3 : 1e-5);
    // That rounding is there at all: the unrounded loss lies further away than the tolerance of weights.
    expect(Math.abs(golden.loss / record.loss - 1)).toBeGreaterThan(1e-5);
  },
);

test("calibration finds the ranges that torch's observers find, over batches", async () => {
  const model = open();
  const half = (from: number) => ({
    ...{ batchSize: rows / 2, length, positionIds: batch.positionIds.slice(0, batch.inputIds.length / 2) },
    inputIds: batch.inputIds.slice(from, from + batch.inputIds.length / 2),
  });
  const found = await calibrate(model, [half(0), half(batch.inputIds.length / 2)]);
  model.dispose();
  expect([...found.keys()].sort()).toEqual(Object.keys(golden.ranges).sort());
  for (const [name, [min, max]] of Object.entries(golden.ranges)) {
    expect([name, Math.abs(found.get(name)!.min - min) < 1e-4 * (max - min)]).toEqual([name, true]);
    expect([name, Math.abs(found.get(name)!.max - max) < 1e-4 * (max - min)]).toEqual([name, true]);
  }
});

test.each([
  [8, 1],
  [4, 0.5],
] as const)('weights of %d bits take %d bytes each, and four for the scale of a row', (bits, each) => {
  const model = open();
  const shapes = model.stages.slice(1, -1).flatMap((stage) => [...linearShapes(stage).values()]);
  const weights = shapes.reduce((sum, [outputs, inputs]) => sum + outputs * inputs, 0);
  const scales = shapes.reduce((sum, [outputs]) => sum + outputs, 0);
  const full = bytesOf(model);
  const quantized = quantizeModel(model, { bits, symmetric: true, granularity: 'channel' });
  expect(bytesOf(quantized)).toBe(full - 4 * weights + each * weights + 4 * scales);
  quantized.dispose();
});

test.each([
  { bits: 4, symmetric: true, granularity: 'group', groupSize: 8, activations: { bits: 8, symmetric: false } },
  { bits: 8, symmetric: false, granularity: 'channel' },
] as const)(
  'what is trained with fake quantisation computes the same once it is quantised: $bits bits',
  async (scheme) => {
    const ids = [3, 7, 5, 11, 2, 19];
    const aware = quantizationAware(tinyModel(), scheme);
    const trained = await logitsOf(aware, ids);
    const plain = tinyModel();
    const original = await logitsOf(plain, ids);
    plain.dispose();
    const quantized = quantizeModel(tinyModel(), scheme);
    const found = await logitsOf(quantized, ids);
    const scale = Math.max(...found.map(Math.abs));
    expect(largestDifference(trained, found)).toBeLessThan(1e-5 * scale);
    expect(largestDifference(trained, original)).toBeGreaterThan(1e-3 * scale);
    [aware, quantized].forEach((model) => model.dispose());
  },
);

test('all that does not fit a model is said at once, and the model stays usable', () => {
  const model = tinyModel();
  expect(() =>
    quantizeModel(model, {
      ...{ bits: 4, symmetric: true, granularity: 'group', groupSize: 12 },
      activations: { bits: 8, symmetric: true, ranges: new Map() },
    }),
  ).toThrow(
    /this model cannot be quantised so:[^]*groupSize: found 12, expected a divisor of the 16 inputs of model.layers.0.self_attn.q_proj[^]*activations.ranges: model.layers.1.mlp.down_proj has none; calibrate\(\) this model/,
  );
  expect(model.parameters.get('model.layers.0.mlp.up_proj.weight')!.bytes().length).toBe(4 * 24 * 16);
  const scheme = { bits: 8, symmetric: true, granularity: 'tensor' } as const;
  const quantized = quantizeModel(model, scheme);
  expect(() => quantizeModel(quantized, scheme)).toThrow(
    'model.layers.0.mlp.up_proj is kept as int8: it is quantised already',
  );
  expect(() => quantizationAware(quantized, scheme)).toThrow('is kept as int8');
  quantized.dispose();
});

test.each([
  [{ bits: 3, symmetric: true }, 'activations.bits: found 3, expected 8 or 4'],
  [{ bits: 8 }, 'activations.symmetric: found undefined, expected true or false'],
])('inputs cannot be rounded as %j', (activations, message) => {
  const model = tinyModel();
  const scheme = { bits: 8, symmetric: true, granularity: 'channel', activations } as ModelQuantization;
  for (const put of [quantizeModel, quantizationAware]) expect(() => put(model, scheme)).toThrow(message);
  model.dispose();
});

test.each([
  ['int8', (model: StagedModel) => quantizeModel(model, { bits: 8, symmetric: true, granularity: 'channel' })],
  ['NF4', (model: StagedModel) => quantizeModelNf4(model)],
])('a weight that is not finite is named and no %s, and nothing is left of the model', (_, put) => {
  const model = tinyModel();
  const name = 'model.layers.1.mlp.up_proj.weight';
  fill(model.parameters.get(name)!, (i) => (i === 5 ? NaN : i));
  expect(() => put(model)).toThrow(new RegExp(`^${name} holds values`));
});

describe('beside adapters', () => {
  const lora = { r: 2, targetModules: 'all-linear' } as const;
  const ids = [3, 1, 4, 1, 5, 9, 2, 6];
  const positions = { batchSize: 1, length: ids.length, positionIds: Int32Array.from(ids, (_, i) => i) };
  const adapted = () => {
    const model = applyLora(tinyModel(), lora);
    for (const parameter of model.trainable) fill(parameter, (i) => 0.3 * Math.sin(i + 1));
    return model;
  };

  test('calibration applies an adapter once: the ranges are those of the model with it merged', async () => {
    const input = [{ ...positions, inputIds: Int32Array.from(ids) }];
    const model = adapted();
    const found = await calibrate(model, input);
    model.dispose();
    const merged = mergeAndUnload(adapted());
    const expected = await calibrate(merged, input);
    merged.dispose();
    for (const [name, { min, max }] of expected) {
      expect(found.get(name)!.min, name).toBeCloseTo(min, 4);
      expect(found.get(name)!.max, name).toBeCloseTo(max, 4);
    }
  });

  test.each([
    ['8 bits', (model: StagedModel) => quantizeModel(model, { bits: 8, symmetric: true, granularity: 'channel' })],
    ['NF4', (model: StagedModel) => quantizeModelNf4(model)],
    ['another adapter', (model: StagedModel) => applyLora(model, lora)],
  ])('an adapted model is refused by %s, which would leave the adapter out', (_, put) => {
    const model = adapted();
    expect(() => put(model)).toThrow('the model has an adapter already');
    model.dispose();
  });

  test.each([undefined, { bits: 8, symmetric: false } as const])(
    'weights in 8 bits, inputs rounded as %s: the codes are what mergeAndUnload() gives back, and a gradient passes them',
    async (activations) => {
      const scheme = { bits: 8, symmetric: true, granularity: 'channel' } as const;
      const plain = quantizeModel(tinyModel(), scheme);
      const expected = await logitsOf(plain, ids);
      plain.dispose();
      const model = applyLora(quantizeModel(tinyModel(), { ...scheme, activations }), lora);
      const stage = model.stages[1];
      const fn = compile('backward', (...inputs) => {
        const { weights, rest } = stageInputs(stage, inputs);
        const [x, dy, ...context] = rest;
        return [tf.grad((x) => stage.forward(weights, x, context))(x, dy)];
      });
      const context = model.context(positions);
      const [x, dy] = [0, 1].map((seed) => tf.randomNormal([ids.length, 16], 0, 1, 'float32', seed));
      const [dx] = await callStage(fn, stage, [x, dy, ...context]);
      expect(tf.tidy(() => tf.max(tf.abs(dx)).dataSync()[0])).toBeGreaterThan(0);
      tf.dispose([x, dy, dx, ...context]);
      fn.dispose();
      // B is 0 at first.
      const merged = mergeAndUnload(model, 'float32');
      expect(largestDifference(await logitsOf(merged, ids), expected)).toBeLessThan(1e-4);
      merged.dispose();
    },
  );
});
