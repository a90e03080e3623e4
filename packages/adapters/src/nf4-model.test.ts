import { openLlama } from '@blockwise/model-zoo';
import { initTensorFlow, liveTensors } from '@blockwise/tensorflow';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { applyLora } from './lora-model.ts';
import { mergeAndUnload } from './merge.ts';
import { quantizeModelNf4 } from './nf4-model.ts';
import { fill, largestDifference, logitsOf } from './run-model.test-support.ts';
import { dataFolder, hasData } from './stories-data.test-support.ts';
import { tinyModel } from './tiny-model.test-support.ts';

/** Logits of stories260K in bitsandbytes' Linear4bit (NF4, double quantisation): made by tools/golden/peft_trajectories.py. */
const golden = JSON.parse(readFileSync(new URL('golden/peft-trajectories.json', import.meta.url), 'utf8')).nf4 as {
  inputIds: number[][];
  logits: { float32: string };
};
const ids = [3, 7, 5, 11, 2, 19];

beforeAll(() => initTensorFlow());

describe.skipIf(!hasData)('stories260K in 4 bits', () => {
  test("says what bitsandbytes' says", async () => {
    const model = quantizeModelNf4(openLlama(join(dataFolder, 'models/stories260K'), { dtype: 'float32' }).model);
    const logits = await logitsOf(model, golden.inputIds[0]);
    const expected = new Float32Array(new Uint8Array(Buffer.from(golden.logits.float32, 'base64')).buffer);
    expect(largestDifference(logits.subarray(logits.length - expected.length), expected)).toBeLessThan(1e-4);
    model.dispose();
  });
});

test.each([
  [true, 0.5 + 1 / 64, 8],
  [false, 0.5 + 4 / 64, 0],
])(
  'with double quantisation %s a weight of a layer takes %d bytes and each matrix %d more',
  (doubleQuantization, each, more) => {
    const settings = { hidden_size: 64, intermediate_size: 128, head_dim: 16, num_key_value_heads: 4 };
    const model = quantizeModelNf4(tinyModel(settings, 'bfloat16'), { doubleQuantization });
    const linear = 4 * 64 * 64 + 3 * 64 * 128;
    const found = [...model.stages[1].parameters.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);
    expect(found).toBe(linear * each + 7 * more + 2 * 64 * 2); // two norms in bfloat16
    const all = [...model.parameters.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);
    expect(all).toBe(2 * found + (2 * 24 * 64 + 64) * 2);
    model.dispose();
  },
);

test('merging makes a 16-bit model that says what base and adapters said; merge() in place refuses', async () => {
  const before = liveTensors();
  const model = applyLora(quantizeModelNf4(tinyModel()), { r: 2, targetModules: ['q_proj', 'down_proj'] });
  for (const [n, parameter] of model.trainable.entries()) fill(parameter, (i) => 0.2 * Math.sin(0.7 * i + n));
  const adapted = await logitsOf(model, ids);
  expect(() => model.merge()).toThrow('model.layers.0.self_attn.q_proj is quantised: mergeAndUnload()');
  const exact = mergeAndUnload(model, 'float32');
  const scale = Math.max(...adapted.map(Math.abs));
  expect(largestDifference(await logitsOf(exact, ids), adapted)).toBeLessThan(1e-5 * scale);
  exact.dispose();

  const half = mergeAndUnload(applyLora(quantizeModelNf4(tinyModel({}, 'bfloat16'))));
  expect(new Set([...half.parameters.values()].map(({ storageDtype }) => storageDtype))).toEqual(new Set(['bfloat16']));
  half.dispose();
  expect(liveTensors()).toBe(before);
});

test('what cannot be packed is refused by name, and a quantised weight is not trained in full', () => {
  const odd = tinyModel({ intermediate_size: 25 });
  expect(() => quantizeModelNf4(odd)).toThrow(
    [0, 1].reduce(
      (text, i) =>
        `${text}\n  - model.layers.${i}.mlp.down_proj.weight has 25 columns, an odd number, and two values share a byte`,
      'this model cannot be put into 4 bits: 2 problems',
    ),
  );
  odd.dispose();
  const model = quantizeModelNf4(tinyModel());
  expect(() => quantizeModelNf4(model)).toThrow('model.layers.1.self_attn.o_proj.weight is quantised already');
  expect(() => applyLora(model, { modulesToSave: ['o_proj'] })).toThrow(
    'model.layers.0.self_attn.o_proj.weight is kept quantised and cannot be trained in full',
  );
  model.dispose();
});
