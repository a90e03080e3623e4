import {
  bfloat16Arithmetic,
  cast,
  compile,
  initTensorFlow,
  liveTensors,
  tf,
  toRaw,
  type AnyTensor,
  type RawTensor,
} from '@blockwise/tensorflow';
import { beforeAll, describe, expect, it } from 'vitest';
import { attention, bfloat16Linear, embedding, linear, plainLinear, rmsNorm, rotary, swiglu } from './layers.ts';
import { replaceWeights, stageWeights } from './stage-weights.ts';
import { noise } from './tiny-llama.test-support.ts';

/** A layer under test beside the same thing in plain TensorFlow.js, whose autodiff is the judge of our gradients. */
interface LayerCase {
  name: string;
  inputs: Record<string, number[]>;
  layer: (...inputs: tf.Tensor[]) => tf.Tensor;
  plain: (...inputs: tf.Tensor[]) => tf.Tensor;
}

const repeatedIds = [3, 1, 3, 0, 4, 3];
const [B, T, K, G, D] = [2, 3, 2, 2, 4];
const masked = -1e30;
const causal = [0, masked, masked, 0, 0, masked, 0, 0, 0];
const apart = [0, masked, masked, masked, 0, masked, masked, 0, 0]; // the first token is another example's

/** As one would write it first: keys and values repeated for each query head of their group. */
function plainAttention(queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, mask: tf.Tensor): tf.Tensor {
  const perHead = tf.reshape(queries, [B, K, G, T, D]);
  const repeat = (x: tf.Tensor) => tf.stack(Array<tf.Tensor>(G).fill(x), 2);
  const flat = (x: tf.Tensor) => tf.reshape(x, [B * K * G, T, D]) as tf.Tensor3D;
  const scores = tf.reshape(tf.matMul(flat(perHead), flat(repeat(keys)), false, true), [B, K, G, T, T]);
  const weights = tf.softmax(tf.add(tf.div(scores, Math.sqrt(D)), mask));
  const attended = tf.matMul(tf.reshape(weights, [B * K * G, T, T]) as tf.Tensor3D, flat(repeat(values)));
  return tf.reshape(attended, [B, K, G * T, D]);
}

const attentionInputs = { queries: [B, K, G * T, D], keys: [B, K, T, D], values: [B, K, T, D] };
const oneMask = () => tf.tensor5d(causal, [1, 1, 1, T, T]);
const maskPerRow = () => tf.tensor5d([...causal, ...apart], [B, 1, 1, T, T]);

function tables(rows: number) {
  const angles = tf.tensor4d(noise(rows * T * (D / 2), 50), [rows, T, 1, D / 2]);
  const whole = tf.concat([angles, angles], 3);
  return [tf.cos(whole), tf.sin(whole)];
}

/** Each pair (x[i], x[i + D/2]) as a complex number times e^(i angle). */
function plainRotary(x: tf.Tensor, rows: number): tf.Tensor {
  const [cos, sin] = tables(rows).map((table) => tf.slice4d(table as tf.Tensor4D, [0, 0, 0, 0], [-1, -1, -1, D / 2]));
  const [real, imaginary] = tf.split(x, 2, 3);
  const turnedReal = tf.sub(tf.mul(real, cos), tf.mul(imaginary, sin));
  return tf.concat([turnedReal, tf.add(tf.mul(real, sin), tf.mul(imaginary, cos))], 3);
}

const cases: LayerCase[] = [
  {
    name: 'linear',
    inputs: { x: [5, 3], weight: [4, 3] },
    layer: (x, weight) => linear(x as tf.Tensor2D, weight),
    plain: (x, weight) => tf.matMul(x as tf.Tensor2D, weight as tf.Tensor2D, false, true),
  },
  {
    name: 'linear with a bias',
    inputs: { x: [5, 3], weight: [4, 3], bias: [4] },
    layer: (x, weight, bias) => linear(x as tf.Tensor2D, weight, bias),
    plain: (x, weight, bias) => tf.add(tf.matMul(x as tf.Tensor2D, weight as tf.Tensor2D, false, true), bias),
  },
  {
    name: 'embedding of repeated ids',
    inputs: { weight: [5, 4] },
    layer: (weight) => embedding(tf.tensor1d(repeatedIds, 'int32'), weight),
    plain: (weight) => tf.matMul(tf.oneHot(tf.tensor1d(repeatedIds, 'int32'), 5).toFloat(), weight as tf.Tensor2D),
  },
  {
    name: 'rmsNorm',
    inputs: { x: [5, 6], weight: [6] },
    layer: (x, weight) => rmsNorm(x as tf.Tensor2D, weight, 0.1),
    plain: (x, weight) => tf.mul(weight, tf.div(x, tf.sqrt(tf.add(tf.mean(tf.square(x), 1, true), 0.1)))),
  },
  ...[1, B].map((rows) => ({
    name: `rotary with ${rows === 1 ? 'one table for all rows' : 'a table per row'}`,
    inputs: { x: [B, T, 3, D] },
    layer: (x: tf.Tensor) => rotary(x as tf.Tensor4D, tables(rows)[0], tables(rows)[1]),
    plain: (x: tf.Tensor) => plainRotary(x, rows),
  })),
  {
    name: 'attention of grouped queries under a causal mask',
    inputs: attentionInputs,
    layer: (queries, keys, values) => attention(queries, keys, values, oneMask(), { causal: true }),
    plain: (queries, keys, values) => plainAttention(queries, keys, values, oneMask()),
  },
  {
    name: 'attention with a mask per row',
    inputs: attentionInputs,
    layer: (queries, keys, values) => attention(queries, keys, values, maskPerRow()),
    plain: (queries, keys, values) => plainAttention(queries, keys, values, maskPerRow()),
  },
  {
    name: 'swiglu',
    inputs: { gate: [5, 4], up: [5, 4] },
    layer: (gate, up) => swiglu(gate as tf.Tensor2D, up as tf.Tensor2D),
    plain: (gate, up) => tf.mul(tf.div(gate, tf.add(1, tf.exp(tf.neg(gate)))), up),
  },
];

/** Largest difference, relative to the largest expected magnitude. */
function error(found: tf.Tensor, expected: tf.Tensor): number {
  expect(found.shape).toEqual(expected.shape);
  const [a, b] = [found, expected].map((x) => x.dataSync<'float32'>());
  const scale = b.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  return b.reduce((most, x, i) => Math.max(most, Math.abs(a[i] - x)), 0) / scale;
}

beforeAll(() => initTensorFlow());

describe.each(cases)('$name', ({ inputs, layer, plain }) => {
  const shapes = Object.values(inputs);
  const names = Object.keys(inputs);
  const size = (shape: number[]) => shape.reduce((product, extent) => product * extent, 1);
  const values = () => shapes.map((shape, i) => tf.tensor(noise(size(shape), i + 1), shape));
  /** A gradient from above that has no symmetry to hide behind. */
  const dyFor = (y: tf.Tensor) => tf.tensor(noise(y.size, 99), y.shape);

  it('equals plain TensorFlow.js, and so does every gradient', () => {
    tf.tidy(() => {
      const given = values();
      const expected = plain(...given);
      expect(error(layer(...given), expected)).toBeLessThan(1e-6);
      const dy = dyFor(expected);
      const found = tf.grads(layer)(given, dy);
      tf.grads(plain)(given, dy).forEach((gradient, i) => {
        expect([names[i], error(found[i], gradient) < 3e-6]).toEqual([names[i], true]);
      });
    });
  });

  it('has the gradients that finite differences give', () => {
    tf.tidy(() => {
      const given = values();
      const dy = dyFor(layer(...given));
      const objective = (...at: tf.Tensor[]) => tf.sum(tf.mul(layer(...at), dy)).dataSync()[0];
      const gradients = tf.grads(layer)(given, dy);
      const step = 1e-2; // differences of float32 sums of size 10: rounding 1e-4, curvature step^2
      gradients.forEach((gradient, i) => {
        const slopes = Array.from({ length: gradient.size }, (_, at) => {
          const moved = (by: number) => {
            const changed = given[i].dataSync().slice();
            changed[at] += by;
            return given.map((x, j) => (j === i ? tf.tensor(changed, x.shape) : x));
          };
          return (objective(...moved(step)) - objective(...moved(-step))) / (2 * step);
        });
        expect([names[i], error(gradient, tf.tensor(slopes, gradient.shape)) < 2e-3]).toEqual([names[i], true]);
      });
    });
  });

  it('gives the same inside a compiled function, gradients included, and leaves no tensor behind', () => {
    const before = liveTensors();
    const all = (...given: AnyTensor[]) => {
      const tensors = given as tf.Tensor[];
      const y = layer(...tensors);
      return [y, ...tf.grads(layer)(tensors, y)];
    };
    const compiled = compile('layer_under_test', all);
    tf.tidy(() => {
      const given = values();
      const found = compiled(...given);
      // Graphs use oneDNN's softmax: as exact (7e-7) as the eager one, but other roundings, which the keys' gradient amplifies to 3e-6.
      all(...given).forEach((expected, i) => expect(error(found[i], expected)).toBeLessThan(1e-5));
    });
    compiled.dispose();
    expect(liveTensors()).toBe(before);
  });
});

describe('bfloat16Linear', () => {
  const [rows, inputs, outputs] = [5, 24, 7];
  const x = () => tf.tensor2d(noise(rows * inputs, 1), [rows, inputs]);
  const dy = () => tf.tensor2d(noise(rows * outputs, 2), [rows, outputs]);
  const bias = () => tf.tensor1d(noise(outputs, 4));
  const half = () => toRaw(tf.tensor2d(noise(outputs * inputs, 3), [outputs, inputs]), 'bfloat16');
  const [ulp, sums] = [2 ** -8, 1e-5];

  it.each(['frozen, in bfloat16', 'trained, in float32'])(
    'is plainLinear within the rounding of bfloat16: %s',
    (kind) => {
      tf.tidy(() => {
        const stored = half();
        const weight = kind.startsWith('frozen') ? stored : cast(stored);
        const entries: [string, AnyTensor][] = [
          ['m.weight', weight],
          ['m.bias', bias()],
        ];
        // Made anew in each scope: what is cast in one ends with it.
        const layer = (linear: typeof plainLinear) => (x: tf.Tensor) =>
          linear('m', x as tf.Tensor2D, stageWeights(entries));
        const [found, expected] = [bfloat16Linear, plainLinear].map((linear) => {
          const [dx] = tf.grads(layer(linear))([x()], dy());
          return [layer(linear)(x()), dx];
        });
        found.forEach((tensor, i) => {
          const distance = error(tensor, expected[i]);
          expect(distance).toBeLessThan(2 * ulp);
          expect(distance).toBeGreaterThan(sums); // it did round
        });
        stored.dispose();
      });
    },
  );

  it('leaves a weight in float16 to plainLinear, bit for bit', () => {
    tf.tidy(() => {
      const stored = toRaw(tf.tensor2d(noise(outputs * inputs, 3), [outputs, inputs]), 'float16');
      const weights = stageWeights([['m.weight', stored]]);
      const [found, expected] = [bfloat16Linear, plainLinear].map((linear) => [
        ...linear('m', x(), weights).dataSync(),
      ]);
      expect(found).toEqual(expected);
      stored.dispose();
    });
  });

  it("multiplies a trained weight's gradient in bfloat16 too", () => {
    tf.tidy(() => {
      const weight = tf.tensor2d(noise(outputs * inputs, 3), [outputs, inputs]);
      const of = (linear: typeof plainLinear) =>
        tf.grads((weight: tf.Tensor) => linear('m', x(), replaceWeights(stageWeights([]), { 'm.weight': weight })))(
          [weight],
          dy(),
        )[0];
      const distance = error(of(bfloat16Linear), of(plainLinear));
      expect(distance).toBeLessThan(2 * ulp);
      expect(distance).toBeGreaterThan(sums);
    });
  });
});

it('multiplies enough rows by a large frozen bfloat16 weight, and their gradients, as exactly as in float32', () => {
  // On a CPU with AMX these are products in terms; everywhere they have to agree with those of the float32 weight.
  const values = (shape: [number, number], seed: number) => tf.randomNormal<tf.Rank.R2>(shape, 0, 1, 'float32', seed);
  const [x, dy, given] = [values([256, 2048], 1), values([256, 2048], 2), values([2048, 2048], 3)];
  const frozen = toRaw(given, 'bfloat16');
  const weight = cast(frozen);
  const run = (weight: AnyTensor) => {
    const f = compile('linear', (x, dy, weight) => {
      const product = tf.grad((x) => tf.sum(tf.mul(linear(x as tf.Tensor2D, weight), dy as tf.Tensor)));
      return [linear(x as tf.Tensor2D, weight), product(x as tf.Tensor)];
    });
    const outputs = f(x, dy, weight);
    f.dispose();
    return outputs;
  };
  const [expected, products] = [run(weight), run(frozen)];
  products.forEach((product, i) => {
    const error = tf.tidy(() => tf.max(tf.abs(tf.sub(product, expected[i]))).dataSync()[0]);
    const largest = tf.tidy(() => tf.max(tf.abs(expected[i])).dataSync()[0]);
    expect(largest).toBeGreaterThan(100);
    expect(error / largest).toBeLessThan(2e-6);
  });
  tf.dispose([x, dy, given, weight, ...expected, ...products]);
  frozen.dispose();
});

describe('the padding id of an embedding', () => {
  const ids = () => tf.tensor1d(repeatedIds, 'int32');
  const dy = () => tf.tensor2d(noise(6 * 2, 7), [6, 2]);
  const weight = () => tf.tensor2d(noise(5 * 2, 8), [5, 2]);

  it('is looked up like any other', () => {
    tf.tidy(() => {
      expect([...embedding(ids(), weight(), 3).dataSync()]).toEqual([...embedding(ids(), weight()).dataSync()]);
    });
  });

  it.each([0, 3])('keeps row %i out of the gradient and leaves the others alone', (paddingId) => {
    tf.tidy(() => {
      const [found] = tf.grads((w: tf.Tensor) => embedding(ids(), w, paddingId))([weight()], dy());
      const [expected] = tf.grads((w: tf.Tensor) => embedding(ids(), w))([weight()], dy());
      const rows = expected.arraySync() as number[][];
      expect(rows[paddingId]).not.toEqual([0, 0]);
      expect(found.arraySync()).toEqual(rows.map((row, id) => (id === paddingId ? [0, 0] : row)));
    });
  });
});

describe('causal attention over rows long enough for several pieces', () => {
  const [B, K, G, T, D] = [2, 2, 2, 300, 8]; // pieces of 128, 128 and 44 queries
  const shapes = { queries: [B, K, G * T, D], keys: [B, K, T, D], values: [B, K, T, D] };
  const given = () => Object.values(shapes).map((shape, i) => tf.tensor(noise(B * K * shape[2] * D, i + 1), shape));
  const dy = () => tf.tensor(noise(B * K * G * T * D, 9), shapes.queries);
  /** Two examples in each row of the second sequence. */
  const mask = () => {
    const values = new Float32Array(2 * T * T);
    for (let b = 0; b < 2; b++)
      for (let query = 0; query < T; query++)
        for (let key = 0; key < T; key++) {
          const isApart = b === 1 && query >= 140 && key < 140;
          if (key > query || isApart) values[(b * T + query) * T + key] = masked;
        }
    return tf.tensor5d(values, [2, 1, 1, T, T]);
  };
  const run = (options: Parameters<typeof attention>[4]) => {
    const oneMask = mask();
    const attend = (...inputs: tf.Tensor[]): tf.Tensor => attention(inputs[0], inputs[1], inputs[2], oneMask, options);
    const { value, grads } = tf.valueAndGrads(attend)(given(), dy());
    return [value, ...grads];
  };

  it('equals attention over all keys at once, and so does every gradient', () => {
    tf.tidy(() => {
      const whole = run({});
      run({ causal: true }).forEach((found, i) => expect(error(found, whole[i])).toBeLessThan(2e-6));
    });
  });

  it('in bfloat16 differs by the rounding of its operands', () => {
    tf.tidy(() => {
      const whole = run({});
      const errors = run({ causal: true, arithmetic: bfloat16Arithmetic }).map((found, i) => error(found, whole[i]));
      for (const one of errors) {
        expect(one).toBeGreaterThan(1e-4);
        expect(one).toBeLessThan(2e-2);
      }
    });
  });
});

it('gives a masked place no weight at all: not its value, not its gradient', () => {
  tf.tidy(() => {
    const [queries, keys] = [tf.zeros([1, 1, 2, 2]), tf.zeros([1, 1, 2, 2])];
    const mask = tf.tensor5d([0, masked, 0, 0], [1, 1, 1, 2, 2]);
    const huge = tf.tensor4d([1, 2, 1e30, 1e30], [1, 1, 2, 2]);
    expect([...attention(queries, keys, huge, mask).dataSync().slice(0, 2)]).toEqual([1, 2]);
    const dy = tf.tensor4d([1, 1, 0, 0], [1, 1, 2, 2]);
    const [dValues] = tf.grads((values: tf.Tensor) => attention(queries, keys, values, mask))([huge], dy);
    expect([...dValues.dataSync()]).toEqual([1, 1, 0, 0]);
  });
});

it('swiglu stays finite where exp would overflow', () => {
  tf.tidy(() => {
    const gate = tf.tensor2d([[-200, 200]]);
    const found = swiglu(gate, tf.tensor2d([[3, 3]])).dataSync();
    expect([...found].map((x) => Math.round(x) + 0)).toEqual([0, 600]);
    const [dGate] = tf.grads((g: tf.Tensor) => swiglu(g as tf.Tensor2D, tf.tensor2d([[3, 3]])))(
      [gate],
      tf.ones([1, 2]),
    );
    expect([...dGate.dataSync()].map((x) => Math.round(x) + 0)).toEqual([0, 3]);
  });
});

it('a frozen bfloat16 weight gives the products and the input gradient of its float32 copy, also in several pieces', () => {
  const before = liveTensors();
  const values = tf.randomNormal([4160, 2048], 0, 0.02, 'float32', 1); // three pieces
  const weight = toRaw(values, 'bfloat16');
  values.dispose();
  const both = compile('frozen', (...inputs) => {
    const [x, dy, weight] = inputs as [tf.Tensor2D, tf.Tensor2D, RawTensor];
    const through = (w: AnyTensor) => [
      linear(x, w),
      ...tf.grads((x: tf.Tensor) => linear(x as tf.Tensor2D, w))([x], dy),
    ];
    return [...through(weight), ...through(cast(weight))];
  });
  tf.tidy(() => {
    const x = tf.randomNormal([7, 2048], 0, 1, 'float32', 2);
    const dy = tf.randomNormal([7, 4160], 0, 1, 'float32', 3);
    const [y, dx, expectedY, expectedDx] = both(x, dy, weight);
    const largest = (a: tf.Tensor, b: tf.Tensor) => tf.max(tf.abs(tf.sub(a, b))).dataSync()[0];
    expect(y.shape).toEqual([7, 4160]);
    expect(largest(y, expectedY)).toBeLessThan(1e-5);
    expect(largest(dx, expectedDx)).toBeLessThan(1e-5);
  });
  both.dispose();
  weight.dispose();
  expect(liveTensors()).toBe(before);
});
