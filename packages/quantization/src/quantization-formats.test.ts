import { UserError } from '@blockwise/errors';
import { compile, initTensorFlow, liveTensors, RawTensor, rehearse, tf } from '@blockwise/tensorflow';
import { readFileSync } from 'node:fs';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { fakeQuantize, fakeQuantizeTokens, fakeQuantizeWeight } from './fake-quantize.ts';
import { dequantizeWeight, quantizeWeight, type AffineParameters, type Bits, type WeightScheme } from './min-max.ts';
import { dequantizeNf4, quantizeNf4 } from './nf4.ts';
import { fakeQuantizeAbsmax, fakeQuantizeTernary, packTernary, ternaryCodes, unpackTernary } from './ternary.ts';

/** Made by tools/golden/quantization_formats.py with torch and transformers; versions inside. */
interface Golden {
  groupSize: number;
  weight: Encoded;
  minMax: {
    bits: Bits;
    symmetric: boolean;
    granularity: WeightScheme['granularity'];
    scale: Encoded;
    zeroPoint: number[][];
    codes: number[][];
    meaning: Encoded;
  }[];
  fakeQuantize: {
    name: string;
    bits: Bits;
    scale: number[];
    zeroPoint: number[];
    x: Encoded;
    y: Encoded;
    upstream: Encoded;
    gradient: Encoded;
  }[];
  bitnet: {
    weight: Encoded;
    ternary: Encoded;
    weightGradient: Encoded;
    codes: number[][];
    packed: number[][];
    activations: Encoded;
    rounded: Encoded;
    activationGradient: Encoded;
  }[];
}
interface Encoded {
  shape: number[];
  float32: string;
}
const golden = JSON.parse(readFileSync(new URL('golden/quantization-formats.json', import.meta.url), 'utf8')) as Golden;

const valuesOf = ({ float32 }: Encoded) => new Float32Array(Uint8Array.from(Buffer.from(float32, 'base64')).buffer);
const tensorOf = (encoded: Encoded) => tf.tensor2d(valuesOf(encoded), encoded.shape as [number, number]);
/** Negative zero as zero: -0.1 rounds to -0 here, torch passes through whole numbers. */
const withoutSignOfZero = (x: tf.Tensor | Float32Array) =>
  (x instanceof tf.Tensor ? x.dataSync<'float32'>() : x).map((value) => value + 0);
const wholeNumbers = (raw: RawTensor) => [
  ...(raw.dtype === 'uint8' ? raw.bytes() : new Int8Array(raw.bytes().slice().buffer)),
];
const intTensor = (raw: RawTensor) => tf.tensor(wholeNumbers(raw), [...raw.shape], 'int32');

let before: number;
beforeAll(() => initTensorFlow());
beforeEach(() => void (before = liveTensors()));
afterEach(() => expect(liveTensors()).toBe(before));

describe.each(golden.minMax)(
  'min-max to $bits bits, symmetric $symmetric, per $granularity',
  ({ bits, symmetric, granularity, scale, zeroPoint, codes, meaning }) => {
    const scheme = { bits, symmetric, granularity, ...(granularity === 'group' && { groupSize: golden.groupSize }) };

    it("gives torch's scales, zero points and codes", () => {
      const weight = tensorOf(golden.weight);
      const found = quantizeWeight(weight, scheme);
      expect(new Float32Array(found.scale.bytes().slice().buffer)).toEqual(valuesOf(scale));
      expect(found.zeroPoint ? wholeNumbers(found.zeroPoint) : undefined).toEqual(
        symmetric ? undefined : zeroPoint.flat(),
      );
      const [rows, columns] = weight.shape;
      expect([found.codes.dtype, ...found.codes.shape]).toEqual(
        bits === 8 ? ['int8', rows, columns] : ['uint8', rows, columns / 2],
      );
      const inFile = bits === 8 ? codes.flat() : codes.flatMap((row) => pairs(row));
      expect(wholeNumbers(found.codes)).toEqual(inFile);
      weight.dispose();
      [found.codes, found.scale, found.zeroPoint].forEach((raw) => raw?.dispose());
    });

    it("means torch's rounded values, also compiled, and fake quantisation gives the same", () => {
      const weight = tensorOf(golden.weight);
      const { codes, scale, zeroPoint } = quantizeWeight(weight, scheme);
      const compiled = compile('dequantize', (...inputs) => {
        const [codes, scale, zeroPoint] = inputs as tf.Tensor[];
        return [dequantizeWeight(codes, bits, scale, zeroPoint)];
      });
      tf.tidy(() => {
        const scales = tf.tensor2d(new Float32Array(scale.bytes().slice().buffer), scale.shape as [number, number]);
        const inputs = [intTensor(codes), scales, ...(zeroPoint ? [intTensor(zeroPoint)] : [])];
        const [found] = compiled(...inputs);
        expect(withoutSignOfZero(found)).toEqual(withoutSignOfZero(valuesOf(meaning)));
        const fake = fakeQuantizeWeight(weight, scheme);
        expect(withoutSignOfZero(fake)).toEqual(withoutSignOfZero(valuesOf(meaning)));
      });
      compiled.dispose();
      weight.dispose();
      [codes, scale, zeroPoint].forEach((raw) => raw?.dispose());
    });
  },
);

/** Two codes a byte, the first in the lower half, 8 added to each. */
const pairs = (row: number[]) => row.flatMap((low, i) => (i % 2 === 0 ? [low + 8 + 16 * (row[i + 1] + 8)] : []));

describe.each(golden.fakeQuantize)(
  'fake quantisation $name',
  ({ bits, scale, zeroPoint, x, y, upstream, gradient }) => {
    it("gives torch's values and gradient, at once and compiled: 0 where a value was clamped", () => {
      const rows = scale.length;
      const both = compile('fake_quantize', (...inputs) => {
        const [x, dy, scale, zeroPoint] = inputs as tf.Tensor[];
        const parameters: AffineParameters = { scale, zeroPoint };
        const { value, grad } = tf.valueAndGrad((x) => fakeQuantize(x, parameters, bits))(x, dy);
        return [value, grad];
      });
      tf.tidy(() => {
        const inputs = [
          tensorOf(x),
          tensorOf(upstream),
          tf.tensor2d(scale, [rows, 1]),
          tf.tensor2d(zeroPoint, [rows, 1]),
        ];
        for (const [value, grad] of [both(...inputs), eager()]) {
          expect(withoutSignOfZero(value)).toEqual(withoutSignOfZero(valuesOf(y)));
          expect(withoutSignOfZero(grad)).toEqual(withoutSignOfZero(valuesOf(gradient)));
        }
        function eager() {
          const parameters = { scale: inputs[2], zeroPoint: inputs[3] };
          const { value, grad } = tf.valueAndGrad((x) => fakeQuantize(x, parameters, bits))(inputs[0], inputs[1]);
          return [value, grad];
        }
      });
      both.dispose();
    });
  },
);

it('rounds each token by its own range: a row of a batch gets what it gets alone', () => {
  tf.tidy(() => {
    const x = tensorOf(golden.weight);
    const together = fakeQuantizeTokens(x, { bits: 8, symmetric: false }).arraySync();
    x.arraySync().forEach((row, i) => {
      const alone = fakeQuantizeTokens(tf.tensor2d([row]), { bits: 8, symmetric: false }).arraySync()[0];
      expect(together[i]).toEqual(alone);
      const step = (Math.max(...row, 0) - Math.min(...row, 0)) / 255;
      row.forEach((value, j) => expect(Math.abs(alone[j] - value)).toBeLessThanOrEqual(1.01 * step));
      expect(new Set(alone.map((value) => Math.round(value / step))).size).toBeGreaterThan(i === 2 ? 0 : 4);
    });
  });
});

it('names all that does not fit a shape in one error', () => {
  tf.tidy(() => {
    const weight = tf.zeros([4, 9]) as tf.Tensor2D;
    expect(() => quantizeWeight(weight, { bits: 4, symmetric: true, granularity: 'group', groupSize: 4 })).toThrow(
      /groupSize: found 4, expected a divisor of the 9 inputs[^]*bits: 4-bit codes are packed in pairs/,
    );
    expect(() => quantizeWeight(weight, { bits: 8, symmetric: true, granularity: 'tensor', groupSize: 4 })).toThrow(
      'groupSize: found 4, expected none with granularity tensor',
    );
  });
});

describe('a scheme that is none', () => {
  const whole = { bits: 8, symmetric: true, granularity: 'channel' } as const;
  it.each([
    [{ granularity: 'row' }, 'granularity: found row, expected tensor, channel, group'],
    [{ symmetric: undefined }, 'symmetric: found undefined, expected true or false'],
    [{ bits: 3 }, 'bits: found 3, expected 8 or 4'],
    [{ granularity: 'group', groupSize: -4 }, 'groupSize: found -4, expected a divisor of the 12 inputs of the weight'],
    [{ granularity: 'group', groupSize: 5 }, 'groupSize: found 5, expected a divisor of the 12 inputs of the weight'],
  ])('is refused, for codes and for fake quantisation: %j', (changes, message) => {
    tf.tidy(() => {
      const weight = tf.ones([2, 12]) as tf.Tensor2D;
      const scheme = { ...whole, ...changes } as WeightScheme;
      expect(() => quantizeWeight(weight, scheme)).toThrow(new UserError(`quantisation: ${message}`));
      expect(() => fakeQuantizeWeight(weight, scheme)).toThrow(new UserError(`quantisation: ${message}`));
    });
  });
});

it.each([
  ['NaN', [1, NaN, 2, 0], true],
  ['infinity', [1, 2, 0, -Infinity], false],
  ['a range that float32 cannot hold', [3e38, -3e38, 2, 0], false],
])('min-max codes of %s are refused, naming the weight', (_, values, symmetric) => {
  tf.tidy(() => {
    const weight = tf.tensor2d(values, [1, 4]);
    for (const bits of [8, 4] as const)
      expect(() => quantizeWeight(weight, { bits, symmetric, granularity: 'channel' }, 'layers.0.w')).toThrow(
        /^layers.0.w holds values, or a range of values, that are not finite/,
      );
  });
});

describe.each(golden.bitnet)("BitNet's ternary weights of $weight.shape", (record) => {
  it("are transformers' to the last bit, with its straight-through gradients", () => {
    tf.tidy(() => {
      const { codes } = ternaryCodes(tensorOf(record.weight));
      expect(tf.cast(codes, 'int32').arraySync()).toEqual(record.codes);
      const ternary = tf.valueAndGrad((w) => fakeQuantizeTernary(w))(tensorOf(record.weight));
      expectClose(ternary.value, record.ternary);
      expect(ternary.grad.dataSync()).toEqual(valuesOf(record.weightGradient));
      const rounded = tf.valueAndGrad((x) => tf.mul(fakeQuantizeAbsmax(x as tf.Tensor2D), 2))(
        tensorOf(record.activations),
      );
      expectClose(tf.div(rounded.value, 2), record.rounded);
      expect(rounded.grad.dataSync()).toEqual(valuesOf(record.activationGradient));
    });
  });

  it("pack to transformers' bytes, and come back", () => {
    tf.tidy(() => {
      const codes = tf.tensor2d(record.codes);
      const packed = packTernary(codes);
      expect(packed.arraySync()).toEqual(record.packed);
      expect(tf.cast(unpackTernary(tf.cast(packed, 'int32'), codes.shape[0]), 'int32').arraySync()).toEqual(
        record.codes,
      );
    });
  });
});

/** Equal but for the order in which a mean is summed: one unit in the last place of the scale. */
function expectClose(found: tf.Tensor, expected: Encoded): void {
  const values = valuesOf(expected);
  found.dataSync().forEach((value, i) => expect(Math.abs(value - values[i])).toBeLessThanOrEqual(2e-7 * Math.abs(values[i]))); // prettier-ignore
}

it('NF4 codes are read only as a shape with as many elements', () => {
  const raw = RawTensor.fromBytes(new Uint8Array(4 * 64 * 64), [64, 64], 'float32');
  const weight = quantizeNf4(raw);
  expect(() => dequantizeNf4(weight, [3, 3])).toThrow(
    new RangeError('[64,32] bytes of two NF4 codes each are not the numbers of shape [3,3]'),
  );
  expect(() => dequantizeNf4(weight, [65, 64])).toThrow(RangeError);
  [raw, ...Object.values(weight)].forEach((tensor: RawTensor) => tensor.dispose());
});

it('NF4 of values that are not finite is refused, naming the weight', () => {
  const values = new Float32Array(128).fill(1);
  values[70] = NaN;
  const raw = RawTensor.fromBytes(new Uint8Array(values.buffer), [2, 64], 'float32');
  expect(() => quantizeNf4(raw, { name: 'layers.0.w' })).toThrow('layers.0.w holds values that are not finite');
  raw.dispose();
});

it('NF4 of a rehearsal, which looks at one piece of a weight, leaves nothing of it', () =>
  rehearse(async () => {
    const before = liveTensors();
    const weight = RawTensor.fromBytes(new Uint8Array(2 * 128 * 64), [128, 64], 'bfloat16');
    const made = quantizeNf4(weight);
    [weight, ...Object.values(made)].forEach((tensor) => tensor.dispose());
    expect(liveTensors()).toBe(before);
  }));
