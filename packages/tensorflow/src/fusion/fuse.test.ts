import { beforeAll, describe, expect, test } from 'vitest';
import { cast, compile, initTensorFlow, matMul2d, matMulBfloat16, tf, toRaw, type AnyTensor } from '../index.ts';
import { withFusionFrom } from './fuse.ts';
import { Sketch } from './sketch.test-support.ts';

beforeAll(() => initTensorFlow());

describe('a plan of kernels', () => {
  test('puts what stands between two products into one kernel, casts included', () => {
    const f = new Sketch();
    const [x, w] = [f.input('bfloat16'), f.input('bfloat16')];
    const product = f.node('MatMul', [x, w], { dtype: 'bfloat16' });
    const values = f.node('Cast', [product]);
    const gated = f.node('Mul', [values, f.node('Sigmoid', [values])]);
    const operand = f.node('Cast', [gated], { dtype: 'bfloat16' });
    const { order, kernels, bytesRead } = f.fused(f.node('MatMul', [operand, w], { dtype: 'bfloat16' }));
    expect(order).toBe('MatMul Kernel MatMul');
    expect(kernels).toEqual(['Cast Sigmoid Mul Cast']);
    expect(bytesRead).toEqual([0.5]); // the product, in 16 bits
  });

  test('leaves one operation alone as it is, and all that work on few elements', () => {
    const one = new Sketch();
    expect(one.fused(one.node('Exp', [one.input()])).kernels).toEqual([]);
    const small = new Sketch();
    const shape = [512, 511];
    const x = small.input('float32', shape);
    expect(small.fused(small.node('Exp', [small.node('Neg', [x], { shape })], { shape })).kernels).toEqual([]);
  });

  test('makes a value twice where that reads less than keeping it would write and read, and else hands it on', () => {
    const plan = (terms: number) => {
      const f = new Sketch();
      let sum = f.input();
      for (let i = 1; i < terms; i++) sum = f.node('Add', [sum, f.input()]);
      const product = f.node('MatMul', [f.node('Exp', [sum]), f.inputs[0]]);
      return f.fused(f.node('Add', [product, sum])).kernels;
    };
    // exp(a + b) W + (a + b): reading a and b again is as much as writing and reading their sum.
    expect(plan(2)).toEqual(['Add Exp', 'Add Add']);
    expect(plan(3)).toEqual(['Add Add Exp']); // the sum is a result of the kernel, and the last Add stands alone
  });

  test('repeats no reduction', () => {
    const f = new Sketch();
    const x = f.input();
    const mean = f.node('Mean', [f.node('Square', [x])], { shape: [512, 1] });
    const product = f.node('MatMul', [f.node('Mul', [x, mean]), x]);
    const { kernels } = f.fused(f.node('Mul', [f.node('Neg', [product]), mean]));
    expect(kernels).toEqual(['Square Mean Mul', 'Neg Mul']);
  });

  test('takes apart what shares nothing but its inputs and small values', () => {
    const f = new Sketch();
    const [q, k, w] = [f.input(), f.input(), f.input()];
    const table = f.node('Neg', [f.input('float32', [1, 512])], { shape: [1, 512] });
    const turned = [q, k].map((x) => f.node('Exp', [f.node('Mul', [x, table])]));
    const { kernels } = f.fused(...turned.map((x) => f.node('MatMul', [x, w])));
    expect(kernels).toEqual(['Neg Mul Exp', 'Neg Mul Exp']);
  });

  test('makes a value when another operation waits for it, though it is needed late', () => {
    const f = new Sketch();
    const [x, w] = [f.input(), f.input('bfloat16')];
    let sum = f.node('MatMul', [x, f.node('Cast', [w])]);
    for (let i = 0; i < 3; i++)
      sum = f.node('Add', [sum, f.node('MatMul', [x, f.node('Cast', [w], { after: [sum] })])]);
    const { order } = f.fused(f.node('Exp', [sum]));
    expect(order).toBe('Cast MatMul Cast MatMul Add Cast MatMul Add Cast MatMul Kernel');
  });

  test('makes what XLA alone can multiply in a kernel, small or large, with what stands around it', () => {
    const shape = [4, 4];
    const f = new Sketch();
    const [x, w] = [f.input('float32', shape), f.input('bfloat16', shape)];
    const operand = f.node('Cast', [f.node('Neg', [x], { shape })], { dtype: 'bfloat16', shape });
    const product = f.node('XlaDotV2', [operand, w], { shape });
    expect(f.fused(f.node('MatMul', [f.node('Exp', [product], { shape }), x], { shape })).order).toBe('Kernel MatMul');
    const alone = new Sketch();
    const [a, b] = [alone.input('bfloat16', shape), alone.input('bfloat16', shape)];
    expect(alone.fused(alone.node('XlaDotV2', [a, b], { shape })).kernels).toEqual(['XlaDotV2']);
  });

  test('leaves out a cast to float32 and back, and gathers before it casts', () => {
    const f = new Sketch();
    const [x, places] = [f.input('bfloat16'), f.input('float32', [4, 2])];
    const product = f.node('MatMul', [x, x], { dtype: 'bfloat16' });
    const values = f.node('Cast', [product]);
    const gathered = f.node('GatherNd', [values, places], { shape: [4] });
    const back = f.node('Cast', [values], { dtype: 'bfloat16' });
    const { nodes, order } = f.fused(gathered, f.node('MatMul', [back, x], { dtype: 'bfloat16' }));
    expect(order).toBe('MatMul GatherNd Cast MatMul');
    expect([nodes[1].inputs[0], nodes[3].inputs[0]]).toEqual([product, product]);
  });
});

/** Normalisation, attention, a gated unit, and their gradients. */
const layer =
  (half: boolean) =>
  (...inputs: AnyTensor[]) => {
    const product = (a: tf.Tensor, b: tf.Tensor, turned = false) =>
      (half ? cast(matMulBfloat16(a, b, false, turned)) : matMul2d(a, b, false, turned)) as tf.Tensor2D;
    const multiply = (a: tf.Tensor, b: tf.Tensor) =>
      tf.customGrad((a, b, save) => {
        (save as tf.GradSaveFunc)([a as tf.Tensor, b as tf.Tensor]);
        const gradFunc = (dy: tf.Tensor, [a, b]: tf.Tensor[]) => [product(dy, b, true), product(tf.transpose(a), dy)];
        return { value: product(a as tf.Tensor, b as tf.Tensor), gradFunc };
      })(a, b);
    const f = (x: tf.Tensor, a: tf.Tensor, b: tf.Tensor) => {
      const normal = tf.mul(x, tf.rsqrt(tf.add(tf.mean(tf.square(x), -1, true), 1e-6)));
      const query = multiply(normal, a);
      const mixed = multiply(tf.softmax(multiply(query, tf.transpose(normal))), normal);
      const heads = tf.transpose(tf.reshape(tf.mul(mixed, tf.sigmoid(mixed)), [3, 16, 2, 16]), [0, 2, 1, 3]);
      const [left, right] = tf.split(heads, 2, 3);
      const turned = tf.concat([tf.neg(right), left], 3);
      return tf.add(x, multiply(tf.reshape(tf.transpose(turned, [0, 2, 1, 3]), [48, 32]), b));
    };
    const { value, grads } = tf.valueAndGrads((x, a, b) => tf.sum(tf.square(f(x, a, b))).asScalar())(
      inputs as tf.Tensor[],
    );
    return [value, ...grads];
  };

test.each([
  ['float32', 1e-5],
  ['bfloat16', 1e-2],
])('kernels compute what single operations do, forward and gradients: products in %s', (dtype, tolerance) => {
  const random = (seed: number, ...shape: number[]) => tf.randomNormal(shape, 0, 0.3, 'float32', seed);
  const inputs = [random(1, 48, 32), random(2, 32, 32), random(3, 32, 32)];
  const results = [Infinity, 1].map((elements) =>
    withFusionFrom(elements, () => {
      const f = compile('layer', layer(dtype === 'bfloat16'));
      const outputs = f(...inputs);
      f.dispose();
      return outputs;
    }),
  );
  results[0].forEach((single, i) => {
    const [error, scale] = [tf.max(tf.abs(tf.sub(results[1][i], single))), tf.max(tf.abs(single))];
    expect(error.dataSync()[0] / scale.dataSync()[0]).toBeLessThan(tolerance);
    expect(scale.dataSync()[0]).toBeGreaterThan(1e-2);
  });
  tf.dispose([...inputs, ...results.flat()]);
});

test('a kernel gives the same bits in every call', () => {
  const x = tf.randomNormal([600, 600], 0, 1, 'float32', 4);
  const f = compile('gate', (x) => [toRaw(tf.mul(x as tf.Tensor, tf.sigmoid(x as tf.Tensor)), 'bfloat16')]);
  const [first, second] = [f(x)[0], f(x)[0]].map((y) => {
    const bytes = (y as unknown as ReturnType<typeof toRaw>).bytes();
    y.dispose();
    return bytes;
  });
  expect(second).toEqual(first);
  expect(new Set(first).size).toBeGreaterThan(100);
  x.dispose();
  f.dispose();
});
