import { beforeAll, describe, expect, test } from 'vitest';
import { attribute, compile, initTensorFlow, liveTensors, OutOfMemoryError, TensorFlowError, tf } from './index.ts';
import { operation } from './operations.ts';

beforeAll(() => initTensorFlow());

function errorOf(call: () => unknown): unknown {
  try {
    call();
  } catch (error) {
    return error;
  }
  throw new Error('nothing was thrown');
}

describe('a TensorFlowError', () => {
  test('names the operation, its inputs and the reason', () => {
    const error = errorOf(() => tf.tidy(() => tf.matMul(tf.ones([2, 3]), tf.ones([4, 5])))) as TensorFlowError;
    expect(error).toBeInstanceOf(TensorFlowError);
    expect(error.name).toBe('TensorFlowError');
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.op).toBe('BatchMatMulV2');
    expect(error.inputs).toEqual(['float32[2,3]', 'float32[4,5]']);
    expect(error.message).toBe(`BatchMatMulV2(float32[2,3], float32[4,5]): ${error.reason} [INVALID_ARGUMENT]`);
  });

  test('names an operation that does not exist, or is called with the wrong number of inputs', () => {
    expect(errorOf(() => operation('Flatten', [], []))).toMatchObject({ op: 'Flatten', code: 'NOT_FOUND' });
    const x = tf.ones([2]);
    const T = attribute.type('T', 1);
    expect(errorOf(() => operation('AddV2', [T], [x]))).toMatchObject({ op: 'AddV2', inputs: ['float32[2]'] });
    x.dispose();
  });

  test('comes from the line that traces it inside a compiled function', () => {
    const f = compile('mismatch', (x, y) => [tf.matMul(x as tf.Tensor2D, y as tf.Tensor2D)]);
    const [x, y] = [tf.ones([2, 3]), tf.ones([2, 3])];
    const before = tf.memory().numTensors;
    expect(errorOf(() => f(x, y))).toMatchObject({
      name: 'TensorFlowError',
      op: 'BatchMatMulV2',
      inputs: ['[2,3]', '[2,3]'],
    });
    expect(tf.memory().numTensors).toBe(before);
    // The engine is none the worse for it.
    expect(tf.tidy(() => tf.add(x, y).sum().arraySync())).toBe(12);
    [x, y].forEach((tensor) => tensor.dispose());
  });

  test('comes out of a running compiled function, called at once or asynchronously', async () => {
    const f = compile('outside', (x, i) => [tf.gather(x as tf.Tensor, i as tf.Tensor1D)]);
    const [x, i] = [tf.ones([2]), tf.tensor1d([5], 'int32')];
    const expected = expect.objectContaining({
      name: 'TensorFlowError',
      inputs: ['float32[2]', 'int32[1]'],
      message: expect.stringContaining('indices[0] = 5 is not in [0, 2)'),
    });
    expect(() => f(x, i)).toThrow(expected);
    await expect(f.async(x, i)).rejects.toThrow(expected);
    [x, i].forEach((tensor) => tensor.dispose());
    f.dispose();
  });

  test('leaks no handle', () => {
    const [x, y] = [tf.ones([2, 3]), tf.ones([4, 5])];
    const fail = () => errorOf(() => tf.matMul(x, y));
    fail(); // values from JavaScript reach TensorFlow at their first use
    const before = [liveTensors(), tf.memory().numTensors];
    for (let i = 0; i < 50; i++) fail();
    expect([liveTensors(), tf.memory().numTensors]).toEqual(before);
    [x, y].forEach((tensor) => tensor.dispose());
  });
});

test('an allocation that no machine can serve is an OutOfMemoryError with its size', () => {
  // 2^46 float32: 256 TiB.
  const error = errorOf(() => tf.fill([2 ** 23, 2 ** 23], 1)) as OutOfMemoryError;
  expect(error).toBeInstanceOf(OutOfMemoryError);
  expect(error).toBeInstanceOf(TensorFlowError);
  expect(error.name).toBe('OutOfMemoryError');
  expect(error.message).toMatch(/^Fill\(.*\): .*shape\[8388608,8388608\].*\[RESOURCE_EXHAUSTED\]$/);
  expect(tf.tidy(() => tf.ones([2]).arraySync())).toEqual([1, 1]);
});
