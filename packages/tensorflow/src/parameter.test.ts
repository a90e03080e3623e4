import { beforeAll, expect, test } from 'vitest';
import { initTensorFlow, liveTensors, Parameter, RawTensor, TensorUseError, tf } from './index.ts';

beforeAll(() => initTensorFlow());

const bfloat16 = (...bits: number[]) =>
  RawTensor.fromBytes(new Uint8Array(Uint16Array.from(bits).buffer), [bits.length], 'bfloat16');
const bitsOf = (bytes: Uint8Array) => Array.from(new Uint16Array(bytes.buffer));
const add = (parameter: Parameter, ...values: number[]) => tf.tidy(() => parameter.master!.add(tf.tensor1d(values)));

test('a parameter rests in 16 bits, is trained in 32, and goes back rounded', () => {
  const before = liveTensors();
  const parameter = new Parameter('model.norm.weight', bfloat16(0x3f80, 0x4000));
  expect([parameter.elements, parameter.byteLength, parameter.master]).toEqual([2, 4, undefined]);
  parameter.activate();
  parameter.activate();
  expect(parameter.byteLength).toBe(8);
  add(parameter, 2 ** -7, 2 ** -10); // the second is below bfloat16's step at 2
  const values = parameter.acquire() as tf.Tensor;
  expect(values.arraySync()).toEqual([1 + 2 ** -7, 2 + 2 ** -10]);
  parameter.release(values);
  expect(bitsOf(parameter.bytes())).toEqual([0x3f81, 0x4000]);
  parameter.deactivate();
  parameter.deactivate();
  expect([parameter.byteLength, parameter.master]).toEqual([4, undefined]);
  expect(bitsOf(parameter.bytes())).toEqual([0x3f81, 0x4000]);
  parameter.dispose();
  expect(liveTensors()).toBe(before);
});

test('a parameter stored in 32 bits keeps every bit, and its stored tensor is not what training changes', () => {
  const stored = RawTensor.fromBytes(new Uint8Array(Float32Array.of(1, 2).buffer), [2], 'float32');
  const other = new Parameter('a', stored);
  other.activate();
  add(other, 1e-6, 0);
  other.deactivate();
  expect(new Float32Array(other.bytes().buffer)).toEqual(Float32Array.of(1 + 1e-6, 2));
  other.dispose();
});

test('replace() changes the values at rest and in training, and refuses other shapes and dtypes by name', () => {
  const parameter = new Parameter('lm_head.weight', bfloat16(0x3f80, 0x3f80));
  parameter.replace(bfloat16(0x4000, 0x4040));
  expect(bitsOf(parameter.bytes())).toEqual([0x4000, 0x4040]);
  parameter.activate();
  parameter.replace(bfloat16(0x4080, 0x40a0));
  expect(bitsOf(parameter.bytes())).toEqual([0x4080, 0x40a0]);
  parameter.deactivate();
  const short = bfloat16(0);
  expect(() => parameter.replace(short)).toThrow('lm_head.weight: shape [1] cannot replace [2]');
  const half = RawTensor.fromBytes(new Uint8Array(4), [2], 'float16');
  expect(() => parameter.replace(half)).toThrow('lm_head.weight: float16 values cannot replace bfloat16 ones');
  [short, half, parameter].forEach((x) => x.dispose());
});

test('a parameter whose values are freed or handed over says so by name, whatever it is asked for', () => {
  const [disposed, taken] = ['model.norm.weight', 'lm_head.weight'].map(
    (name) => new Parameter(name, bfloat16(0x3f80)),
  );
  disposed.activate();
  disposed.dispose();
  const values = taken.take();
  for (const parameter of [disposed, taken]) {
    const uses = [
      () => parameter.acquire(),
      () => parameter.activate(),
      () => parameter.bytes(),
      () => parameter.take(),
      () => parameter.replace(values),
    ];
    for (const use of uses)
      expect(use).toThrow(new TensorUseError(`${parameter.name} is used after dispose() or take()`));
  }
  values.dispose();
});
