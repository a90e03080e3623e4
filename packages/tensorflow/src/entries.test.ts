import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import { replaceEntries, takeColumns, takeEntries, type Entries } from './entries.ts';
import { initTensorFlow, liveTensors } from './init.ts';
import { cast, RawTensor, toRaw } from './raw-tensor.ts';

beforeAll(() => initTensorFlow());

/** 0 ... 11 as [3, 4]. */
const all = Array.from({ length: 12 }, (_, i) => i);
const cases: [string, () => Entries, number[]][] = [
  ['a stretch', () => ({ from: 5, count: 4 }), [5, 6, 7, 8]],
  ['the beginning', () => ({ from: 0, count: 3 }), [0, 1, 2]],
  ['a stretch up to the end', () => ({ from: 9, count: 3 }), [9, 10, 11]],
  ['a stretch past the end', () => ({ from: 10, count: 5 }), [10, 11, 0, 1, 2]],
  ['everything', () => ({ from: 0, count: 12 }), all],
  ['everything from the middle', () => ({ from: 7, count: 12 }), [7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6]],
  ['any places', () => ({ indices: tf.tensor1d([11, 0, 6], 'int32') }), [11, 0, 6]],
];

describe.each(['float32', 'bfloat16'] as const)('%s', (dtype) => {
  test.each(cases)('%s: values are taken from their places and replaced there alone', (_, make, places) => {
    const before = liveTensors();
    const numbers = tf.tensor2d(all, [3, 4]);
    const x = toRaw(numbers, dtype);
    const entries = make();
    const taken = takeEntries(x, entries);
    const fresh = tf.tensor1d(places.map((place) => 100 + place));
    const values = toRaw(fresh, dtype);
    const replaced = replaceEntries(x, entries, values);

    expect([taken.dtype, taken.shape, replaced.dtype, replaced.shape]).toEqual([dtype, [places.length], dtype, [3, 4]]);
    expect(contents(taken)).toEqual(places);
    expect(contents(replaced)).toEqual(all.map((i) => (places.includes(i) ? 100 + i : i)));
    expect(contents(x)).toEqual(all);
    if ('indices' in entries) entries.indices.dispose();
    for (const tensor of [numbers, x, taken, fresh, values, replaced]) tensor.dispose();
    expect(liveTensors()).toBe(before);
  });
});

test('of a TensorFlow.js tensor the taken values are one too', () => {
  const x = tf.tensor2d(all, [3, 4]);
  const taken = takeEntries(x, { from: 10, count: 4 });
  expect([...taken.dataSync()]).toEqual([10, 11, 0, 1]);
  tf.dispose([x, taken]);
});

test.each([
  [{ from: 1, count: 2 }, [1, 2, 5, 6, 9, 10]],
  [{ from: 3, count: 2 }, [3, 0, 7, 4, 11, 8]],
])('columns are taken from their places: %o', (columns, expected) => {
  const before = liveTensors();
  const x = tf.tensor2d(all, [3, 4]);
  const raw = toRaw(x, 'bfloat16');
  const [taken, half] = [takeColumns(x, columns), takeColumns(raw, columns)];
  expect([...taken.dataSync()]).toEqual(expected);
  expect([half.dtype, half.shape, contents(half)]).toEqual(['bfloat16', [3, 2], expected]);
  for (const tensor of [x, raw, taken, half]) tensor.dispose();
  expect(liveTensors()).toBe(before);
});

function contents(x: RawTensor): number[] {
  const values = cast(x);
  const numbers = [...values.dataSync()];
  values.dispose();
  return numbers;
}
