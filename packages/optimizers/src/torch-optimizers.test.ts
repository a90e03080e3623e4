import { initTensorFlow, Parameter, RawTensor, tf } from '@blockwise/tensorflow';
import { beforeAll, describe, expect, test } from 'vitest';
import golden from './golden/torch-optimizers.json' with { type: 'json' };
import { adam, adamW, sgd, type OptimizerFactory } from './index.ts';

// golden/torch-optimizers.json: made by `python tools/golden/torch_optimizers.py`; versions and command stand in the file.

beforeAll(() => initTensorFlow());

interface GoldenArray {
  shape: number[];
  float32: string;
}

const bytes = ({ float32 }: GoldenArray) => new Uint8Array(Buffer.from(float32, 'base64'));
const floats = (array: GoldenArray) => new Float32Array(bytes(array).buffer);
const camel = (name: string) => name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());

function factory(name: string, options: object): OptimizerFactory {
  const camelOptions = Object.fromEntries(Object.entries(options).map(([key, value]) => [camel(key), value]));
  return { AdamW: adamW, Adam: adam, SGD: sgd }[name]!(camelOptions);
}

/**
 * The largest difference of two float32 lists, relative to the values but at least to 0.1: values near zero are differences of larger ones,
 * and carry their rounding.
 */
function difference(found: Float32Array, expected: Float32Array): number {
  return Math.max(...found.map((value, i) => Math.abs(value - expected[i]) / Math.max(Math.abs(expected[i]), 0.1)));
}

describe('torch.optim on given gradients', () => {
  test('the golden file has all cases', () => {
    expect(golden.cases.length).toBe(11);
  });

  test.each(golden.cases)('$name: equal after each of ten steps', ({ optimizer: name, options, parameters: after }) => {
    const parameters = golden.initial.map(
      (array, i) => new Parameter(`p${i}`, RawTensor.fromBytes(bytes(array), array.shape, 'float32')),
    );
    const optimizer = factory(name, options)(parameters);
    golden.gradients.forEach((gradients, step) => {
      optimizer.learningRate = golden.learningRates[step];
      optimizer.beginStep();
      gradients.forEach((array, i) => {
        const gradient = tf.tensor(floats(array), array.shape);
        optimizer.update(`p${i}`, gradient);
        gradient.dispose();
      });
      optimizer.endStep();
      parameters.forEach((parameter, i) => {
        const found = new Float32Array(parameter.bytes().buffer);
        // Ten steps of a handful of float32 operations each, at 6e-8: 1e-6 would not hold if a beta, or eps, were off by 1e-5.
        expect(difference(found, floats(after[step][i]))).toBeLessThan(1e-6);
      });
    });
    optimizer.dispose();
    parameters.forEach((parameter) => parameter.dispose());
  });
});

test("Adam with a beta of 0 takes the step of the gradient in hand, as torch's does", () => {
  // torch.optim.AdamW(lr=1e-3, betas=(0.9, 0), weight_decay=0) from 1 with gradients 10 and 1e-4: 0.999, then -46.37.
  const after = (betas: [number, number]) => {
    const parameter = new Parameter(
      'w',
      RawTensor.fromBytes(new Uint8Array(Float32Array.of(1).buffer), [1], 'float32'),
    );
    const optimizer = adamW({ learningRate: 1e-3, betas, weightDecay: 0 })([parameter]);
    for (const value of [10, 1e-4]) {
      const gradient = tf.tensor1d([value]);
      optimizer.beginStep();
      optimizer.update('w', gradient);
      optimizer.endStep();
      gradient.dispose();
    }
    const [result] = new Float32Array(optimizer.state().tensors.get('w.master')!.bytes.slice().buffer);
    optimizer.dispose();
    parameter.dispose();
    return result;
  };
  expect(after([0, 0])).toBeCloseTo(0.998, 4);
  expect(after([0.9, 0])).toBeCloseTo(-46.37, 1);
});
