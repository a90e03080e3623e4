import { beforeAll, describe, expect, test } from 'vitest';
import {
  cast,
  castAfter,
  compile,
  dtypes,
  gatherRows,
  initTensorFlow,
  liveTensors,
  MemoryMeter,
  RawTensor,
  readMemory,
  sliceRows,
  tf,
  toRaw,
  type DType,
} from './index.ts';

beforeAll(() => initTensorFlow());

const float32Of = (bits: number) => new Float32Array(Uint32Array.of(bits).buffer)[0];
const bitsOf = (value: number) => new Uint32Array(Float32Array.of(value).buffer)[0];
const halves = (tensor: RawTensor) => Array.from(new Uint16Array(tensor.bytes().buffer));

/** Bits of 16-bit floats that `values` become; values are given as float32 bits so that NaN payloads survive. */
function roundBits(bits: readonly number[], dtype: 'bfloat16' | 'float16', seed?: number): number[] {
  // Through fromBytes: TensorFlow.js reads numbers, and a NaN's payload is not a number's.
  const raw = RawTensor.fromBytes(new Uint8Array(Uint32Array.from(bits).buffer), [bits.length], 'float32');
  const x = cast(raw);
  const rounded = toRaw(x, dtype, seed === undefined ? { mode: 'nearest' } : { mode: 'stochastic', seed });
  const result = halves(rounded);
  [raw, x, rounded].forEach((tensor) => tensor.dispose());
  return result;
}

describe('bytes', () => {
  test.each(Object.keys(dtypes) as DType[])('of %s come back as they went in', (dtype) => {
    const elements = 6;
    // Every pattern is legal in every dtype except bool, whose bytes are 0 or 1.
    const bytes = Uint8Array.from({ length: elements * dtypes[dtype].bytes }, (_, i) =>
      dtype === 'bool' ? i % 2 : (37 * i + 11) % 256,
    );
    const tensor = RawTensor.fromBytes(bytes, [2, 3], dtype);
    expect(tensor.dtype).toBe(dtype);
    expect(tensor.shape).toEqual([2, 3]);
    expect(tensor.byteLength).toBe(bytes.length);
    expect(tensor.bytes()).toEqual(bytes);
    bytes.fill(255); // it was a copy
    expect(tensor.bytes()[0]).not.toBe(255);
    tensor.dispose();
  });

  test('of a scalar and of no elements', () => {
    const scalar = RawTensor.fromBytes(Uint8Array.of(0x80, 0x3f), [], 'bfloat16');
    expect(cast(scalar).arraySync()).toBe(1);
    const empty = RawTensor.fromBytes(new Uint8Array(0), [0, 4], 'float16');
    expect(empty.bytes()).toEqual(new Uint8Array(0));
    expect(cast(empty).shape).toEqual([0, 4]);
    [scalar, empty].forEach((tensor) => tensor.dispose());
  });

  test('that do not fit the shape are refused', () => {
    expect(() => RawTensor.fromBytes(new Uint8Array(11), [2, 3], 'bfloat16')).toThrow(
      'bfloat16[2,3] takes 12 bytes, found 11',
    );
  });
});

describe('dispose', () => {
  test('frees the handle once, and later use says so', () => {
    const before = liveTensors();
    const tensor = RawTensor.fromBytes(new Uint8Array(6), [3], 'float16');
    expect(liveTensors()).toBe(before + 1);
    tensor.dispose();
    tensor.dispose();
    expect(liveTensors()).toBe(before);
    expect(() => tensor.bytes()).toThrow('a float16[3] tensor is used after dispose()');
    expect(() => cast(tensor)).toThrow(expect.objectContaining({ name: 'TensorUseError' }));
  });

  test('of a TensorFlow.js tensor is noticed by the next operation on it', () => {
    const x = tf.tensor1d([1, 2]);
    x.dispose();
    const message = 'a float32[2] tensor is used after dispose()';
    expect(() => tf.square(x)).toThrow(message);
    expect(() => toRaw(x, 'bfloat16')).toThrow(message);
  });
});

describe('cast', () => {
  test('gives the exact float32 value of every bfloat16 and float16 pattern', () => {
    const patterns = Uint16Array.from({ length: 65536 }, (_, i) => i);
    for (const dtype of ['bfloat16', 'float16'] as const) {
      const raw = RawTensor.fromBytes(new Uint8Array(patterns.buffer), [65536], dtype);
      const values = cast(raw);
      const expected = Float32Array.from(patterns, dtype === 'bfloat16' ? (bits) => float32Of(bits << 16) : halfValue);
      const found = values.dataSync();
      expect(expected.findIndex((value, i) => !Object.is(value, found[i]))).toBe(-1);
      [raw, values].forEach((tensor) => tensor.dispose());
    }
  });

  test('gives the values of integers', () => {
    const cases: [DType, Uint8Array, number[]][] = [
      ['int8', new Uint8Array(Int8Array.of(-128, 127).buffer), [-128, 127]],
      ['uint8', Uint8Array.of(0, 255), [0, 255]],
      ['int64', new Uint8Array(BigInt64Array.of(-3n, 1n << 24n).buffer), [-3, 2 ** 24]],
      ['float64', new Uint8Array(Float64Array.of(0.1, -1e300).buffer), [Math.fround(0.1), -Infinity]],
      ['bool', Uint8Array.of(0, 1), [0, 1]],
    ];
    for (const [dtype, bytes, expected] of cases) {
      const raw = RawTensor.fromBytes(bytes, [2], dtype);
      const values = cast(raw);
      expect(values.dtype).toBe('float32');
      expect(values.arraySync()).toEqual(expected);
      [raw, values].forEach((tensor) => tensor.dispose());
    }
  });
});

/** IEEE 754 binary16 by its definition. */
function halfValue(bits: number): number {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

describe('rounding to nearest', () => {
  test('to bfloat16 goes to even on a tie, keeps infinities and NaN, and overflows to infinity', () => {
    const cases: [float32: number, bfloat16: number, why: string][] = [
      [0x3f808000, 0x3f80, 'a tie above an even pattern goes down'],
      [0x3f818000, 0x3f82, 'a tie above an odd pattern goes up'],
      [0x3f808001, 0x3f81, 'above a tie'],
      [0x3f807fff, 0x3f80, 'below a tie'],
      [0xbf818000, 0xbf82, 'a negative tie'],
      [0x80000000, 0x8000, 'minus zero'],
      [0x7f800000, 0x7f80, 'infinity'],
      [0xff800000, 0xff80, 'minus infinity'],
      [0x7f7fffff, 0x7f80, 'the largest float32 is beyond bfloat16'],
      [0x3fffffff, 0x4000, 'a carry into the exponent'],
    ];
    const rounded = roundBits(cases.map(([bits]) => bits), 'bfloat16'); // prettier-ignore
    cases.forEach(([, expected, why], i) => expect(rounded[i].toString(16), why).toBe(expected.toString(16)));
    const [nan] = roundBits([0x7fc00000], 'bfloat16');
    expect(nan & 0x7f80).toBe(0x7f80);
    expect(nan & 0x7f).not.toBe(0);
  });

  test('to float16 goes to even on a tie, to subnormals, and overflows to infinity', () => {
    const cases: [value: number, float16: number, why: string][] = [
      [1 + 2 ** -11, 0x3c00, 'a tie above an even pattern goes down'],
      [1 + 3 * 2 ** -11, 0x3c02, 'a tie above an odd pattern goes up'],
      [1 + 2 ** -11 + 2 ** -20, 0x3c01, 'above a tie'],
      [2 ** -24, 0x0001, 'the least subnormal'],
      [2 ** -25, 0x0000, 'a tie between zero and it'],
      [3 * 2 ** -25, 0x0002, 'a tie between subnormals'],
      [65504, 0x7bff, 'the largest'],
      [65519.996, 0x7bff, 'below the overflow tie'],
      [65520, 0x7c00, 'the overflow tie'],
      [-Infinity, 0xfc00, 'minus infinity'],
      [-0, 0x8000, 'minus zero'],
    ];
    const rounded = roundBits(cases.map(([value]) => bitsOf(value)), 'float16'); // prettier-ignore
    cases.forEach(([, expected, why], i) => expect(rounded[i].toString(16), why).toBe(expected.toString(16)));
    const [nan] = roundBits([0x7fc00000], 'float16');
    expect(halfValue(nan)).toBeNaN();
  });

  test('leaves its input as it was and shares nothing but float32', () => {
    const x = tf.tensor1d([1.5, -2.25]);
    const [half, same] = [toRaw(x, 'bfloat16'), toRaw(x, 'float32')];
    expect(new Float32Array(same.bytes().buffer)).toEqual(Float32Array.of(1.5, -2.25));
    x.dispose();
    expect(halves(half)).toEqual([0x3fc0, 0xc010]);
    [half, same].forEach((tensor) => tensor.dispose());
  });
});

describe('stochastic rounding', () => {
  const elements = 1 << 18;

  test.each([
    [0.25, 0x3f804000],
    [0.5, 0x3f808000],
    [0.9, 0x3f80e666],
    [0.25, 0xbf804000],
  ])('rounds away from zero with probability %d where that part is cut off (%#)', (probability, bits) => {
    const x = tf.fill([elements], float32Of(bits));
    const rounded = toRaw(x, 'bfloat16', { mode: 'stochastic', seed: 3 });
    const values = halves(rounded);
    const [below, above] = [bits >>> 16, (bits >>> 16) + 1];
    expect(values.every((value) => value === below || value === above)).toBe(true);
    const share = values.filter((value) => value === above).length / elements;
    // Five standard deviations of a binomial: a right generator fails once in two million seeds.
    const exact = (bits & 0xffff) / 65536;
    expect(Math.abs(exact - probability)).toBeLessThan(1e-4);
    expect(Math.abs(share - exact)).toBeLessThan(5 * Math.sqrt((exact * (1 - exact)) / elements));
    [x, rounded].forEach((tensor) => tensor.dispose());
  });

  test('is the same for one seed and another for the next', () => {
    const bits = Array.from({ length: 64 }, (_, i) => 0x3f800000 + 1021 * i);
    expect(roundBits(bits, 'bfloat16', 5)).toEqual(roundBits(bits, 'bfloat16', 5));
    expect(roundBits(bits, 'bfloat16', 5)).not.toEqual(roundBits(bits, 'bfloat16', 6));
  });

  test('keeps what bfloat16 holds exactly, infinities and every NaN', () => {
    const exact = [0x3f800000, 0xbf810000, 0x00000000, 0x80000000, 0x7f7f0000, 0x7f800000, 0xff800000];
    for (const seed of [1, 2, 3, 4])
      expect(roundBits(exact, 'bfloat16', seed)).toEqual(exact.map((bits) => bits >>> 16));
    for (const nan of roundBits([0x7fc00000, 0x7fffffff, 0xffffffff, 0x7f800001], 'bfloat16', 1))
      expect(float32Of(nan << 16)).toBeNaN();
  });

  test('frees what it used, and refuses other dtypes', () => {
    const x = tf.tensor([1.001]);
    const before = liveTensors();
    toRaw(x, 'bfloat16', { mode: 'stochastic', seed: 1 }).dispose();
    expect(() => toRaw(x, 'float16', { mode: 'stochastic', seed: 1 })).toThrow(
      'stochastic rounding is made for bfloat16, not float16',
    );
    expect(liveTensors() - before).toBeLessThanOrEqual(1); // x itself reaches TensorFlow at its first use
    const scalar = tf.scalar(3);
    const rounded = toRaw(scalar, 'bfloat16', { mode: 'stochastic', seed: 1 });
    expect(rounded.shape).toEqual([]);
    expect(halves(rounded)).toEqual([0x4040]);
    [x, scalar, rounded].forEach((tensor) => tensor.dispose());
  });
});

describe('rows of a bfloat16 matrix', () => {
  const rows = [
    [1, 2, 3],
    [4, 5, 6],
    [7, 8, 9],
    [-1, 0.5, 256],
  ];
  const matrix = () => {
    const values = tf.tensor2d(rows);
    const stored = toRaw(values, 'bfloat16');
    values.dispose();
    return stored;
  };

  test.each(['at once', 'compiled'])('are gathered and sliced as float32, %s', (how) => {
    const before = liveTensors();
    const stored = matrix();
    const indices = tf.tensor1d([3, 0, 3], 'int32');
    const body = (x: RawTensor, i: tf.Tensor) => {
      const slice = sliceRows(x, 1, 3);
      const values = castAfter(slice, i);
      slice.dispose();
      return [gatherRows(x, i as tf.Tensor1D), values];
    };
    const compiled = compile('rows', body as never);
    const [gathered, sliced] = (how === 'compiled' ? compiled(stored, indices) : body(stored, indices)) as tf.Tensor[];
    expect(gathered.arraySync()).toEqual([rows[3], rows[0], rows[3]]);
    expect(sliced.arraySync()).toEqual([rows[1], rows[2]]);
    [stored, indices, gathered, sliced].forEach((tensor) => tensor.dispose());
    compiled.dispose();
    expect(liveTensors()).toBe(before);
  });
});

test('float32 copies inside a compiled function exist one at a time when each waits for the last product', () => {
  // 8 weights of 32 MB as float32: together 256 MB, one after the other a part of it.
  const weights = Array.from({ length: 8 }, () => {
    const values = tf.fill([2048, 4096], 0.5);
    const stored = toRaw(values, 'bfloat16');
    values.dispose();
    return stored;
  });
  const x = tf.fill([1, 4096], 1) as tf.Tensor2D;
  const sums = compile('waiting', (...inputs) => {
    const [x, ...weights] = inputs as [tf.Tensor2D, ...RawTensor[]];
    let sum: tf.Tensor = x;
    for (const weight of weights) sum = tf.sum(tf.mul(castAfter(weight, sum), 1));
    return [sum];
  });
  const measure = () => {
    const meter = new MemoryMeter(1);
    const before = readMemory().anonymous!;
    const [sum] = sums(x, ...weights);
    expect(sum.dataSync()[0]).toBe(2048 * 4096 * 0.5);
    sum.dispose();
    return meter.stop().peakAnonymous! - before;
  };
  if (process.platform === 'linux') expect(measure()).toBeLessThan(160e6);
  [x, ...weights].forEach((tensor) => tensor.dispose());
  sums.dispose();
});
