import { beforeAll, expect, test } from 'vitest';
import { cast, compile, initTensorFlow, liveTensors, Parameter, RawTensor, tf, toRaw, Variable } from './index.ts';
import { linear } from './linear.test-support.ts';

beforeAll(() => initTensorFlow());

/** Loss and gradient of y = x W^T against a target, W [2, 2] in any dtype. */
const step = compile('step', (...inputs) => {
  const [x, weight, target] = [inputs[0] as tf.Tensor2D, cast(inputs[1]), inputs[2] as tf.Tensor2D];
  const loss = (weight: tf.Tensor) =>
    linear(x, weight as tf.Tensor2D)
      .sub(target)
      .square()
      .mean()
      .asScalar();
  const { value, grad } = tf.valueAndGrad(loss)(weight);
  return [value, grad];
});

test('1,000 steps of training, block switches included, leave no handle and no tensor behind, and converge', async () => {
  const stored = RawTensor.fromBytes(new Uint8Array(8), [2, 2], 'bfloat16');
  const parameter = new Parameter('weight', stored);
  const x = tf.tensor2d([
    [1, 2],
    [3, -1],
  ]);
  const target = tf.matMul(x, tf.tensor2d([[1, -2], [0.5, 4]]), false, true); // prettier-ignore
  const losses: number[] = [];
  let moments: Variable[] = [];

  const activate = () => {
    parameter.activate();
    const zeros = tf.zeros([2, 2]);
    moments = [new Variable(zeros), new Variable(zeros)];
    zeros.dispose();
  };
  const deactivate = (seed: number) => {
    parameter.deactivate({ mode: 'stochastic', seed });
    moments.forEach((moment) => moment.dispose());
  };
  const train = async (index: number, count: number) => {
    const weight = parameter.acquire();
    const [loss, gradient] = await (index % 2 ? step.async(x, weight, target) : step(x, weight, target));
    losses.push(loss.dataSync()[0]);
    parameter.release(weight);
    tf.tidy(() =>
      parameter.master!.applyAdam(
        moments[0],
        moments[1],
        {
          beta1Power: tf.scalar(0.9 ** count),
          beta2Power: tf.scalar(0.999 ** count),
          learningRate: tf.scalar(0.02),
          beta1: tf.scalar(0.9),
          beta2: tf.scalar(0.999),
          epsilon: tf.scalar(1e-8),
        },
        gradient,
      ),
    );
    [loss, gradient].forEach((tensor) => tensor.dispose());
  };
  const block = async (first: number, steps: number) => {
    activate();
    for (let i = 0; i < steps; i++) await train(first + i, i + 1);
    deactivate(first);
  };

  await block(0, 2);
  const before = [liveTensors(), tf.memory().numTensors, tf.memory().numDataBuffers];
  for (let first = 2; first < 1002; first += 250) await block(first, 250);
  expect([liveTensors(), tf.memory().numTensors, tf.memory().numDataBuffers]).toEqual(before);
  expect(losses).toHaveLength(1002);
  expect(losses[1001]).toBeLessThan(1e-2 * losses[0]);
  [parameter, x, target].forEach((tensor) => tensor.dispose());
});

test('casts and roundings leave nothing behind', () => {
  const x = tf.tensor1d([1, 2, 3]);
  toRaw(x, 'float16').dispose();
  const before = [liveTensors(), tf.memory().numTensors];
  for (const dtype of ['bfloat16', 'float16', 'float32', 'int8', 'float64'] as const) {
    const raw = toRaw(x, dtype);
    const back = cast(raw);
    expect(back.arraySync()).toEqual([1, 2, 3]);
    [raw, back].forEach((tensor) => tensor.dispose());
  }
  expect([liveTensors(), tf.memory().numTensors]).toEqual(before);
  x.dispose();
});
