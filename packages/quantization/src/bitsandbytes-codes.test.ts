import { cast, compile, initTensorFlow, liveTensors, RawTensor, sliceRows, tf, toRaw } from '@blockwise/tensorflow';
import { readFileSync } from 'node:fs';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import {
  codeTable,
  dequantizeBlockwise,
  dequantizeNf4,
  dequantizeNf4Codes,
  dynamicMap,
  nf4Table,
  quantizeBlockwise,
  quantizeNf4,
  type Nf4Weight,
} from './index.ts';

/** Made by tools/golden/bitsandbytes_codes.py; versions inside. Codes are base64 of bytes. */
interface Golden {
  dynamicMap: { signed: Encoded; unsigned: Encoded };
  tensors: Record<string, Encoded>;
  blockwise: {
    tensor: string;
    signed: boolean;
    blockSize: number;
    codes: string;
    absmax: Encoded;
    meaning?: Encoded;
  }[];
  nf4: {
    tensor: string;
    dtype: 'float32' | 'bfloat16';
    double: boolean;
    codes: string;
    absmax?: Encoded;
    absmaxCodes?: string;
    nestedAbsmax?: Encoded;
    offset?: number;
    meaning?: Encoded;
  }[];
}
interface Encoded {
  shape: number[];
  float32: string;
}
const golden = JSON.parse(readFileSync(new URL('golden/bitsandbytes-codes.json', import.meta.url), 'utf8')) as Golden;

const bytesOf = (base64: string) => new Uint8Array(Buffer.from(base64, 'base64'));
const floatsOf = ({ float32 }: Encoded) => new Float32Array(bytesOf(float32).buffer);
const floats = (raw: RawTensor) => new Float32Array(raw.bytes().slice().buffer);
/** A tensor of the golden file, or its magnitudes, in a dtype. */
function tensorOf(name: string, signed = true, dtype: 'float32' | 'bfloat16' = 'float32'): RawTensor {
  const { shape } = golden.tensors[name];
  const values = floatsOf(golden.tensors[name]).map((value) => (signed ? value : Math.abs(value)));
  const tensor = tf.tensor(values, shape);
  const raw = toRaw(tensor, dtype);
  tensor.dispose();
  return raw;
}
const disposeAll = ({ codes, absmax, nestedAbsmax, nestedOffset }: Nf4Weight) =>
  [codes, absmax, nestedAbsmax, nestedOffset].forEach((raw) => raw?.dispose());
/** -0 as 0: the sign of a zero block's zeros says nothing. */
const unsignedZeros = (values: Float32Array) => values.map((value) => value + 0);

let before: number;
beforeAll(() => initTensorFlow());
beforeEach(() => void (before = liveTensors()));
afterEach(() => expect(liveTensors()).toBe(before));

it("dynamicMap() is bitsandbytes' create_dynamic_map()", () => {
  expect(dynamicMap(true)).toEqual(floatsOf(golden.dynamicMap.signed));
  expect(dynamicMap(false)).toEqual(floatsOf(golden.dynamicMap.unsigned));
});

describe.each(golden.blockwise)('8 bits block-wise: $tensor, signed $signed, blocks of $blockSize', (record) => {
  const scheme = { code: dynamicMap(record.signed), blockSize: record.blockSize };

  it("gives bitsandbytes' codes and absmax, at once and compiled", () => {
    const [x, table] = [tensorOf(record.tensor, record.signed), codeTable(scheme.code)];
    const compiled = compile('quantize', (x, table) => {
      const { codes, absmax } = quantizeBlockwise(x, scheme, table);
      return [codes, absmax];
    });
    for (const [codes, absmax] of [compiled(x, table), Object.values(quantizeBlockwise(x, scheme))] as [
      RawTensor,
      tf.Tensor,
    ][]) {
      expect([codes.dtype, ...codes.shape]).toEqual(['uint8', ...x.shape]);
      expect(codes.bytes()).toEqual(bytesOf(record.codes));
      expect(absmax.dataSync()).toEqual(floatsOf(record.absmax));
      absmax.dispose();
      codes.dispose();
    }
    compiled.dispose();
    [x, table].forEach((raw) => raw.dispose());
  });

  it.runIf(record.meaning)("means bitsandbytes' numbers, at once and compiled", () => {
    const { shape } = golden.tensors[record.tensor];
    const codes = RawTensor.fromBytes(bytesOf(record.codes), shape, 'uint8');
    const absmax = tf.tensor1d(floatsOf(record.absmax));
    const compiled = compile('dequantize', (codes, absmax) => [
      dequantizeBlockwise(codes, absmax as tf.Tensor, scheme),
    ]);
    for (const found of [dequantizeBlockwise(codes, absmax, scheme), compiled(codes, absmax)[0]]) {
      expect(found.shape).toEqual(shape);
      expect(unsignedZeros(found.dataSync<'float32'>())).toEqual(unsignedZeros(floatsOf(record.meaning!)));
      found.dispose();
    }
    compiled.dispose();
    tf.dispose(absmax);
    codes.dispose();
  });
});

describe.each(golden.nf4)('NF4: $tensor in $dtype, double $double', (record) => {
  it("gives bitsandbytes' packed codes, nested codes and offset", () => {
    const x = tensorOf(record.tensor, true, record.dtype);
    const found = quantizeNf4(x, { doubleQuant: record.double });
    expect(found.codes.bytes()).toEqual(bytesOf(record.codes));
    if (record.double) {
      // torch sums the absmax in an order of its own.
      const [offset] = floats(found.nestedOffset!);
      expect(Math.abs(offset - record.offset!)).toBeLessThanOrEqual(2e-7 * Math.abs(record.offset!));
      expect([found.absmax.dtype, found.absmax.bytes()]).toEqual(['uint8', bytesOf(record.absmaxCodes!)]);
      const expected = floatsOf(record.nestedAbsmax!);
      floats(found.nestedAbsmax!).forEach((value, i) => expect(Math.abs(value - expected[i])).toBeLessThanOrEqual(2e-7 * (expected[i] + record.offset!))); // prettier-ignore
    } else expect(floats(found.absmax)).toEqual(floatsOf(record.absmax!));
    disposeAll(found);
    x.dispose();
  });

  it.runIf(record.meaning)("means bitsandbytes' numbers, at once and compiled", () => {
    const x = tensorOf(record.tensor, true, record.dtype);
    const weight = quantizeNf4(x, { doubleQuant: record.double });
    const expected = floatsOf(record.meaning!);
    const inputs = Object.entries(weight) as [string, RawTensor][];
    const compiled = compile('dequantize_nf4', (...values) => {
      const named = Object.fromEntries(inputs.map(([name], i) => [name, values[i]]));
      return [dequantizeNf4(named as unknown as Nf4Weight, x.shape)];
    });
    for (const found of [dequantizeNf4(weight, x.shape), compiled(...inputs.map(([, raw]) => raw))[0]]) {
      expect(found.shape).toEqual(x.shape);
      // The offset's last bits (absmax is a sum with it), and in bfloat16 the rounding of bitsandbytes' result.
      const relative = x.dtype === 'bfloat16' ? 2 ** -8 : 1e-6;
      found.dataSync().forEach((value, i) => {
        const error = Math.abs(value - expected[i]);
        expect(error).toBeLessThanOrEqual(relative * Math.abs(expected[i]) + 3e-7 * (record.offset ?? 0));
      });
      found.dispose();
    }
    compiled.dispose();
    disposeAll(weight);
    x.dispose();
  });
});

it('a doubly quantised weight takes 4.127 bits a number, a plain one 4.5', () => {
  const values = tf.randomNormal([512, 256], 0, 0.02, 'float32', 1);
  const x = toRaw(values, 'bfloat16');
  const bits = [true, false].map((doubleQuant) => {
    const weight = quantizeNf4(x, { doubleQuant });
    const bytes = Object.values(weight as unknown as Record<string, RawTensor>).map(({ byteLength }) => byteLength);
    disposeAll(weight);
    return (8 * bytes.reduce((sum, one) => sum + one, 0)) / (512 * 256);
  });
  // 32 bits of the offset come once.
  expect(bits).toEqual([4 + 8 / 64 + 32 / (64 * 256) + 32 / (512 * 256), 4.5]);
  values.dispose();
  x.dispose();
});

it('quantises a matrix of several pieces as it does its rows', () => {
  const values = tf.randomNormal([200, 11008], 0, 0.02, 'float32', 2);
  const whole = toRaw(values, 'float32');
  const all = quantizeNf4(whole, { doubleQuant: false });
  const tail = tf.slice(values, [192, 0], [8, 11008]);
  const rows = toRaw(tail, 'float32');
  const part = quantizeNf4(rows, { doubleQuant: false });
  expect(all.codes.bytes().subarray((192 * 11008) / 2)).toEqual(part.codes.bytes());
  expect(floats(all.absmax).subarray((192 * 11008) / 64)).toEqual(floats(part.absmax));
  [all, part].forEach(disposeAll);
  [whole, rows].forEach((raw) => raw.dispose());
  tf.dispose([values, tail]);
});

it('looks large tensors up two bytes at a time, at once and compiled, with the numbers of single bytes', () => {
  const shape = [128, 8192];
  const values = tf.randomNormal(shape, 0, 0.02, 'float32', 3);
  const x = toRaw(values, 'bfloat16');
  const weight = quantizeNf4(x, { doubleQuant: false });
  const [table, absmax, codes] = [nf4Table(weight.codes), cast(weight.absmax), cast(weight.codes, 'int32')];
  expect(table.shape).toEqual([65536, 4]);
  const singly = dequantizeNf4Codes(codes, absmax, shape);
  const compiled = compile('dequantize_large', (codes, absmax) => [
    dequantizeNf4Codes(codes, absmax as tf.Tensor, shape),
  ]);
  const [together] = compiled(weight.codes, absmax);
  const last = sliceRows(weight.codes, 64, 128);
  const lastAbsmax = tf.slice(absmax, (64 * 8192) / 64);
  const rows = dequantizeNf4Codes(last, lastAbsmax, [64, 8192], table);
  expect(together.dataSync()).toEqual(singly.dataSync());
  expect(rows.dataSync()).toEqual(singly.dataSync().subarray(64 * 8192));
  compiled.dispose();
  disposeAll(weight);
  [x, last].forEach((raw) => raw.dispose());
  tf.dispose([values, table, absmax, codes, singly, together, lastAbsmax, rows]);
});
