import { initTensorFlow, liveTensors, Parameter, RawTensor, tf } from '@blockwise/tensorflow';
import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, test } from 'vitest';
import { adam8bit, adamW8bit, type Optimizer, type StateTensor } from './index.ts';

/** bitsandbytes' 8-bit Adam on given gradients, made by tools/golden/adam8bit.py; versions inside. */
interface Golden {
  steps: number;
  initial: Encoded[];
  gradientNumbers: Encoded[];
  cases: {
    name: string;
    optimizer: 'Adam8bit' | 'AdamW8bit';
    options: { lr: number; weight_decay?: number; betas?: [number, number]; eps?: number };
    noise: { largest: number; mean: number };
    afterFirst: Recorded[];
    afterLast: Recorded[];
  }[];
}
interface Encoded {
  shape: number[];
  float32: string;
}
/** 8-bit states are base64 of their bytes; those of small parameters are float32. */
interface Recorded {
  parameter: Encoded;
  state1: Encoded | string;
  state2: Encoded | string;
  absmax1?: Encoded;
  absmax2?: Encoded;
}
const golden = JSON.parse(readFileSync(new URL('golden/adam8bit.json', import.meta.url), 'utf8')) as Golden;

const bytesOf = (base64: string) => new Uint8Array(Buffer.from(base64, 'base64'));
const floatsOf = ({ float32 }: Encoded) => new Float32Array(bytesOf(float32).buffer);
const largestDifference = (found: Float32Array, expected: Float32Array) =>
  found.reduce((largest, value, i) => Math.max(largest, Math.abs(value - expected[i])), 0);

/** Of step t: the numbers from 37 t on, cyclically, times 2^-(t mod 5). */
function gradientOf(encoded: Encoded, step: number): tf.Tensor {
  const numbers = floatsOf(encoded);
  const turned = numbers.map((_, i) => numbers[(i + 37 * step) % numbers.length] * 2 ** -(step % 5));
  return tf.tensor(turned, encoded.shape);
}

function takeStep(optimizer: Optimizer, step: number): void {
  optimizer.beginStep();
  golden.gradientNumbers.forEach((numbers, i) => {
    const gradient = gradientOf(numbers, step);
    optimizer.update(`p${i}`, gradient);
    gradient.dispose();
  });
  optimizer.endStep();
}

const floatState = ({ bytes }: StateTensor) => new Float32Array(bytes.slice().buffer);
const parameterValues = (parameter: Parameter) => new Float32Array(parameter.bytes().slice().buffer);
const initialParameters = () =>
  golden.initial.map((x, i) => new Parameter(`p${i}`, RawTensor.fromBytes(bytesOf(x.float32), x.shape, 'float32')));

beforeAll(() => initTensorFlow());

describe.each(golden.cases)("$name on given gradients: bitsandbytes'", ({ optimizer: name, options, ...record }) => {
  const { lr: learningRate, weight_decay: weightDecay, ...rest } = options;
  const factory = { Adam8bit: adam8bit, AdamW8bit: adamW8bit }[name]({ learningRate, weightDecay, ...rest });

  test('codes, absmax and parameters after one step', () => {
    const before = liveTensors();
    const parameters = initialParameters();
    const optimizer = factory(parameters);
    takeStep(optimizer, 0);
    const { tensors } = optimizer.state();
    record.afterFirst.forEach((expected, i) => {
      expect(largestDifference(parameterValues(parameters[i]), floatsOf(expected.parameter))).toBeLessThan(1e-6);
      if (!expected.absmax1 || !expected.absmax2) return expect(tensors.has(`p${i}.exp_avg`)).toBe(true);
      for (const key of ['state1', 'state2'] as const)
        expect(tensors.get(`p${i}.${key}`)!.bytes).toEqual(bytesOf(expected[key] as string));
      for (const key of ['absmax1', 'absmax2'] as const) {
        const absmax = floatsOf(expected[key]!);
        const found = floatState(tensors.get(`p${i}.${key}`)!);
        found.forEach((value, j) => expect(Math.abs(value / absmax[j] - 1)).toBeLessThan(3e-7));
      }
    });
    optimizer.dispose();
    parameters.forEach((parameter) => parameter.dispose());
    expect(liveTensors()).toBe(before);
  });

  test('parameters and states after 40 steps, but for values that rounding put on the other side of a boundary', () => {
    const parameters = initialParameters();
    const optimizer = factory(parameters);
    for (let step = 0; step < golden.steps; step++) takeStep(optimizer, step);
    const { tensors } = optimizer.state();
    let [largest, sum, count, otherCodes, codes] = [0, 0, 0, 0, 0];
    record.afterLast.forEach((expected, i) => {
      const values = floatsOf(expected.parameter);
      parameterValues(parameters[i]).forEach((value, j) => {
        const error = Math.abs(value - values[j]);
        [largest, sum, count] = [Math.max(largest, error), sum + error, count + 1];
      });
      if (typeof expected.state1 !== 'string' || typeof expected.state2 !== 'string') return;
      for (const key of ['state1', 'state2'] as const) {
        const wanted = bytesOf(expected[key] as string);
        tensors.get(`p${i}.${key}`)!.bytes.forEach((code, j) => (otherCodes += code === wanted[j] ? 0 : 1));
        codes += wanted.length;
      }
    });
    console.log(
      `${record.name}: differences of parameters at most ${largest.toExponential(1)}, mean ${(sum / count).toExponential(1)}` +
        ` (noise ${record.noise.largest}, ${record.noise.mean}); ${otherCodes} of ${codes} codes differ`,
    );
    expect(largest).toBeLessThan(Math.max(1e-4, 10 * record.noise.largest));
    expect(sum / count).toBeLessThan(Math.max(1e-6, 10 * record.noise.mean));
    expect(otherCodes / codes).toBeLessThan(1e-3);
    optimizer.dispose();
    parameters.forEach((parameter) => parameter.dispose());
  });
});

test('a parameter of several pieces moves as its pieces would alone; states take 2.03 bytes an element', () => {
  // Two pieces of 2^22 elements, the second a short one.
  const [n, rest] = [2 ** 22 + 1000, 1000];
  const values = tf.randomNormal([n], 0, 1, 'float32', 1);
  const gradient = tf.randomNormal([n], 0, 1, 'float32', 2);
  const tail = [values, gradient].map((x) => tf.slice(x, n - rest, rest));
  const make = (x: tf.Tensor) => {
    const raw = RawTensor.fromBytes(new Uint8Array(x.dataSync().buffer.slice(0)), x.shape, 'float32');
    const parameter = new Parameter('p', raw);
    return { parameter, optimizer: adam8bit({ min8bitSize: 0 })([parameter]) };
  };
  const [whole, alone] = [make(values), make(tail[0])];
  for (const [{ optimizer }, g] of [
    [whole, gradient],
    [alone, tail[1]],
  ] as const)
    // prettier-ignore
    for (let step = 0; step < 2; step++) {
      optimizer.beginStep();
      optimizer.update('p', g);
      optimizer.endStep();
    }
  expect(parameterValues(whole.parameter).subarray(n - rest)).toEqual(parameterValues(alone.parameter));
  expect(whole.optimizer.memory().states / n).toBeCloseTo(2 + 8 / 256, 3);
  for (const { parameter, optimizer } of [whole, alone]) {
    optimizer.dispose();
    parameter.dispose();
  }
  tf.dispose([values, gradient, ...tail]);
});
