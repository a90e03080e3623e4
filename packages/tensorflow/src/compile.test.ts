import process from 'node:process';
import { beforeAll, describe, expect, test } from 'vitest';
import { cast, compile, initTensorFlow, liveTensors, matMul2d, RawTensor, tf, toRaw, type AnyTensor } from './index.ts';

beforeAll(() => initTensorFlow());

const random = (...shape: number[]) => tf.randomNormal(shape, 0, 1, 'float32', 11);
const dispose = (...tensors: AnyTensor[]) => tensors.forEach((tensor) => tensor.dispose());
const read = (tensors: AnyTensor[]) => {
  const values = (tensors as tf.Tensor[]).map((tensor) => tensor.arraySync());
  dispose(...tensors);
  return values;
};

/** Single-head attention and a gated unit with a residual: what a layer is made of. x [N, D], weights [D, D]. */
function layer(x: tf.Tensor2D, a: tf.Tensor2D, b: tf.Tensor2D): tf.Tensor2D {
  const normal = x.mul(x.square().mean(-1, true).add(1e-6).rsqrt()) as tf.Tensor2D;
  const query = tf.matMul(normal, a);
  const mixed = tf.matMul(tf.softmax(tf.matMul(query, normal, false, true).div(Math.sqrt(8))), normal);
  return x.add(tf.matMul(mixed.mul(tf.sigmoid(mixed)) as tf.Tensor2D, b));
}
/** The layer's sum of squares and its gradients, largest values near 1. */
const lossAndGradients = (...inputs: AnyTensor[]) => {
  const { value, grads } = tf.valueAndGrads((x, a, b) =>
    layer(x as tf.Tensor2D, a as tf.Tensor2D, b as tf.Tensor2D)
      .square()
      .mean()
      .asScalar(),
  )(inputs as tf.Tensor[]);
  return [value, ...grads];
};

describe('a compiled function', () => {
  test('gives what its body gives, values and gradients', () => {
    const inputs = [random(6, 8), random(8, 8), random(8, 8)];
    const f = compile('layer', lossAndGradients);
    const [eager, compiled] = [lossAndGradients(...inputs), f(...inputs)];
    expect(compiled.map((x) => [x.dtype, x.shape])).toEqual(eager.map((x) => [x.dtype, x.shape]));
    compiled.forEach((x, i) => {
      const difference = tf.tidy(() => x.sub(eager[i]).abs().max().arraySync() as number);
      expect(difference).toBeLessThan(1e-6);
    });
    // An eager gradient that is zero everywhere would equal a compiled one.
    eager.forEach((x) => expect(tf.tidy(() => x.abs().max().arraySync() as number)).toBeGreaterThan(1e-3));
    dispose(...inputs, ...eager, ...compiled);
    f.dispose();
  });

  test('is traced once per combination of shapes and dtypes', () => {
    let traces = 0;
    const f = compile('double', (x) => {
      traces++;
      return [tf.add(x as tf.Tensor, x as tf.Tensor)];
    });
    const inputs = [tf.ones([2]), tf.ones([3]), tf.ones([2], 'int32'), tf.ones([2, 1]), tf.scalar(1)];
    for (let round = 0; round < 3; round++)
      for (const x of inputs) {
        const [y] = f(x);
        expect([y.dtype, y.shape, y.dataSync()[0]]).toEqual([x.dtype, x.shape, 2]);
        y.dispose();
      }
    expect([traces, f.variants]).toEqual([5, 5]);
    expect(f.compileSeconds).toBeGreaterThan(0);
    f.dispose();
    expect(f.variants).toBe(0);
    dispose(...f(inputs[0])); // traced anew
    expect(traces).toBe(6);
    dispose(...inputs);
    f.dispose();
  });

  test('takes and returns tensors of every kind: raw, repeated, unused, passed through, constant', () => {
    const f = compile('kinds', (weight, x, _unused) => {
      const sum = cast(weight).add(x as tf.Tensor);
      return [toRaw(sum, 'bfloat16'), x, x, tf.scalar(3), tf.greater(sum, 2), sum.cast('int32')] as never;
    });
    const weight = RawTensor.fromBytes(new Uint8Array(Uint16Array.of(0x3f80, 0x4000).buffer), [2], 'bfloat16');
    const x = tf.tensor1d([0.5, 0.25]);
    const [half, ...others] = f(weight, x, x) as unknown as [RawTensor, ...tf.Tensor[]];
    expect(half).toBeInstanceOf(RawTensor);
    expect([half.dtype, half.shape]).toEqual(['bfloat16', [2]]);
    expect(Array.from(new Uint16Array(half.bytes().buffer))).toEqual([0x3fc0, 0x4010]);
    expect(others.map((y) => y.dtype)).toEqual(['float32', 'float32', 'float32', 'bool', 'int32']);
    expect(others.map((y) => y.arraySync())).toEqual([[0.5, 0.25], [0.5, 0.25], 3, [0, 1], [1, 2]]);
    dispose(half, ...others, weight, x);
    f.dispose();
  });

  test('freezes what it reads from JavaScript, and captures small tensors as constants', () => {
    const offset = tf.tensor1d([10, 20]);
    let factor = 2;
    const f = compile('captures', (x) => [(x as tf.Tensor).mul(factor).add(offset)]);
    const x = tf.tensor1d([1, 2]);
    expect(read(f(x))).toEqual([[12, 24]]);
    offset.dispose();
    factor = 3;
    expect(read(f(x))).toEqual([[12, 24]]);
    x.dispose();
    f.dispose();
  });

  test('refuses to capture a big tensor, and says what to do', () => {
    const big = tf.range(0, 1025);
    const f = compile('big', (x) => [tf.add(x as tf.Tensor, big)]);
    const x = tf.ones([1025]);
    const expected = {
      name: 'TensorUseError',
      message: expect.stringMatching(/^a tensor of 4100 bytes .*pass it as an input/),
    };
    expect(() => f(x)).toThrow(expect.objectContaining(expected));
    expect(f.variants).toBe(0);
    dispose(big, x);
  });

  test('has in it what tf.ones() and tf.zeros() fill, of any size, as gradients of TensorFlow.js do', () => {
    const twos = tf.fill([300, 70], 2);
    const f = compile('filled', (x) => [
      ...tf.grads((x) => x.square().mean(-1).sum().asScalar())([x as tf.Tensor]),
      tf
        .zeros([3, 1000])
        .add(tf.ones([1000], 'int32').cast('float32'))
        .add(tf.scalar(0.5)),
      twos.mul(x as tf.Tensor),
    ]);
    const x = tf.fill([300, 70], 7);
    const [gradient, sum, doubled] = f(x);
    const range = (x: tf.Tensor) => tf.tidy(() => [x.min().arraySync(), x.max().arraySync()]);
    expect([gradient.shape, sum.shape]).toEqual([[300, 70], [3, 1000]]); // prettier-ignore
    expect(range(gradient).map((value) => (value as number).toFixed(6))).toEqual(['0.200000', '0.200000']);
    expect([range(sum), range(doubled), range(twos)]).toEqual([[1.5, 1.5], [14, 14], [2, 2]]); // prettier-ignore
    dispose(gradient, sum, doubled, twos, x);
    f.dispose();
  });

  test('has no values to read while it is traced', () => {
    const x = tf.ones([2]);
    const f = compile('reads', (x) => [(x as tf.Tensor).mul((x as tf.Tensor).sum().arraySync() as number)]);
    expect(() => f(x)).toThrow(
      expect.objectContaining({ name: 'TensorUseError', message: 'values cannot be read inside a compiled function' }),
    );
    const raw = compile('reads', (x) => [tf.scalar(toRaw(x as tf.Tensor, 'bfloat16').bytes().length)]);
    expect(() => raw(x)).toThrow('values cannot be read inside a compiled function');
    x.dispose();
  });

  test('lets none of its values out but its outputs', () => {
    let escaped: tf.Tensor | undefined;
    const f = compile('leaky', (x) => [(escaped = tf.keep(tf.square(x as tf.Tensor))).add(1)]);
    const x = tf.ones([2]);
    expect(read(f(x))).toEqual([[2, 2]]);
    const outside = expect.objectContaining({ name: 'TensorUseError' });
    expect(() => tf.add(escaped!, 1)).toThrow(outside);
    expect(() => escaped!.dataSync()).toThrow(outside);
    const g = compile('thief', (x) => [tf.add(x as tf.Tensor, escaped!)]);
    expect(() => g(x)).toThrow('a value of another compiled function is used here: pass it as an input');
    dispose(escaped!, x);
    f.dispose();
  });

  test('called inside another becomes part of it', () => {
    const inner = compile('inner', (x) => [tf.square(x as tf.Tensor)]);
    const outer = compile('outer', (x) => [tf.grad((x) => inner(x)[0].sum())(x as tf.Tensor)]);
    const x = tf.tensor1d([1, 2, 3]);
    expect(read(outer(x))).toEqual([[2, 4, 6]]);
    expect([inner.variants, outer.variants]).toEqual([0, 1]);
    x.dispose();
    outer.dispose();
  });

  test('keeps its 64 variants used last', () => {
    let traces = 0;
    const f = compile('many', (x) => (traces++, [tf.add(x as tf.Tensor, 1)]));
    const call = (size: number) =>
      tf.tidy(() =>
        f(tf.ones([size]))[0]
          .sum()
          .arraySync(),
      );
    for (let size = 1; size <= 64; size++) expect(call(size)).toBe(2 * size);
    call(1); // now 2 is the oldest
    call(65);
    expect([f.variants, traces]).toEqual([64, 65]);
    call(1);
    expect(traces).toBe(65);
    expect(call(2)).toBe(4);
    expect([f.variants, traces]).toEqual([64, 66]);
    f.dispose();
  });

  test('of one name does not disturb another of that name', () => {
    const [f, g] = [1, 2].map((n) => compile('same', (x) => [tf.add(x as tf.Tensor, n)]));
    const x = tf.tensor1d([1]);
    expect([read(f(x)), read(g(x)), read(f(x))]).toEqual([[[2]], [[3]], [[2]]]);
    f.dispose();
    expect(read(g(x))).toEqual([[3]]);
    g.dispose();
    x.dispose();
  });

  test('leaves no handle and no tensor behind, nor does a trace that fails', () => {
    const x = tf.ones([2]);
    dispose(tf.square(x));
    const before = [liveTensors(), tf.memory().numTensors];
    const f = compile('tidy', (x) => [
      tf
        .square(x as tf.Tensor)
        .add(tf.scalar(1))
        .sum(),
    ]);
    for (let i = 0; i < 3; i++) dispose(...f(x));
    f.dispose();
    const failing = compile('failing', (x) => {
      tf.square(x as tf.Tensor).add(tf.scalar(1));
      throw new Error('from the body');
    });
    expect(() => failing(x)).toThrow('from the body');
    expect([liveTensors(), tf.memory().numTensors]).toEqual(before);
    x.dispose();
  });
});

test('a first run that fails leaves no timer behind, which would keep the process alive', () => {
  const timers = () => process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length;
  const before = timers();
  const fn = compile('fails', (x, indices) => {
    const values = x as tf.Tensor2D;
    return [tf.gather(tf.sqrt(tf.add(tf.mul(values, 2), tf.square(values))), indices as tf.Tensor1D)];
  });
  const [x, outside] = [tf.ones([1024, 512]), tf.tensor1d([5000], 'int32')];
  expect(() => fn(x, outside)).toThrow(/5000 is not in \[0, 1024\)/);
  expect(timers()).toBe(before);
  fn.dispose();
  dispose(x, outside);
});

describe('an asynchronous call', () => {
  // A second of products, as one operation.
  const chain = compile('chain', (a, b) => {
    let x = a as tf.Tensor2D;
    for (let i = 0; i < 60; i++) x = tf.mul(matMul2d(x, b as tf.Tensor2D), 1 / 32);
    return [x];
  });

  test('gives the same bits, and keeps the event loop alive meanwhile', async () => {
    const [a, b] = [random(1024, 1024), random(1024, 1024)];
    const [expected] = chain(a, b);
    let [last, widest] = [performance.now(), 0];
    const tick = () => {
      const now = performance.now();
      widest = Math.max(widest, now - last);
      last = now;
    };
    const timer = setInterval(tick, 5);
    const begin = performance.now();
    const [y] = await chain.async(a, b);
    const took = performance.now() - begin;
    tick();
    clearInterval(timer);
    expect(Buffer.compare(new Uint8Array(y.dataSync().buffer), new Uint8Array(expected.dataSync().buffer))).toBe(0);
    expect(took).toBeGreaterThan(400);
    // Blocked, the gap would be all of it. A busy machine delays timers by tens of milliseconds.
    expect(widest).toBeLessThan(Math.max(100, took / 5));
    dispose(a, b, y, expected);
    chain.dispose();
  });

  test('may run beside others, and its inputs may be disposed meanwhile', async () => {
    const f = compile('concurrent', (x, w) => [tf.matMul(x as tf.Tensor2D, w as tf.Tensor2D).sum()]);
    const results = Array.from({ length: 16 }, async (_, i) => {
      const [x, w] = [tf.fill([64, 64], i), tf.ones([64, 64])];
      const result = f.async(x, w);
      dispose(x, w);
      return read(await result)[0];
    });
    expect(await Promise.all(results)).toEqual(Array.from({ length: 16 }, (_, i) => 64 * 64 * 64 * i));
    f.dispose();
  });

  test('is refused inside a compiled function', async () => {
    const inner = compile('inner', (x) => [x]);
    let refused: Promise<unknown> | undefined;
    const outer = compile('outer', (x) => {
      refused = inner.async(x).catch((error: unknown) => error);
      return [x];
    });
    const x = tf.ones([1]);
    dispose(...outer(x), x);
    expect(await refused).toMatchObject({
      name: 'TensorUseError',
      message: 'inner: asynchronous calls are not possible inside a compiled function',
    });
    outer.dispose();
  });
});
