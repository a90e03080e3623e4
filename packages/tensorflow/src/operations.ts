import * as tf from '@tensorflow/tfjs-core';
import { attribute, type Attribute } from './attributes.ts';
import { wrap } from './backend.ts';
import { dtypes } from './dtypes.ts';
import { idOfAny, type AnyTensor } from './raw-tensor.ts';
import { currentRuntime } from './runtime.ts';

/** Operations of TensorFlow that TensorFlow.js lacks or reaches by a slower way. All work at once and inside compiled functions. */

const T = attribute.type('T', dtypes.float32.code);

/** Runs any TensorFlow operation whose outputs are float32, int32 or bool. Inputs are borrowed; no gradient is recorded. */
export function operation(name: string, attributes: readonly Attribute[], inputs: readonly AnyTensor[]): tf.Tensor[] {
  return currentRuntime().execute(name, attributes, inputs.map(idOfAny)).map(wrap);
}

/** The product of two float32 matrices, each transposed on request; no gradient is recorded. */
export function matMul2d(a: tf.Tensor, b: tf.Tensor, transposeA = false, transposeB = false): tf.Tensor2D {
  const attributes = [T, attribute.bool('transpose_a', transposeA), attribute.bool('transpose_b', transposeB)];
  return operation('MatMul', attributes, [a, b])[0] as tf.Tensor2D;
}

/**
 * A linear layer without bias, y = x W^T, as PyTorch stores its weight.
 * @param x float32 [N, inputs]
 * @param weight float32 [outputs, inputs]
 * @returns float32 [N, outputs]
 */
export function linear(x: tf.Tensor2D, weight: tf.Tensor2D): tf.Tensor2D {
  const forward = tf.customGrad((...args) => {
    const [x, weight, save] = args as unknown as [tf.Tensor, tf.Tensor, tf.GradSaveFunc];
    save([x, weight]);
    return {
      value: matMul2d(x, weight, false, true),
      gradFunc: (dy, saved) => {
        const [x, weight] = saved as tf.Tensor[];
        return [matMul2d(dy as tf.Tensor, weight), matMul2d(dy as tf.Tensor, x, true)];
      },
    };
  });
  return forward(x, weight) as tf.Tensor2D;
}

/**
 * Cross-entropy of each row and its gradient, in one pass over the logits (SparseSoftmaxCrossEntropyWithLogits).
 * @param logits float32 [N, classes]
 * @param labels int32 [N], each in [0, classes)
 * @returns loss float32 [N] in nats; gradient float32 [N, classes] of each row's loss
 */
export function sparseSoftmaxCrossEntropy(logits: tf.Tensor2D, labels: tf.Tensor1D): [tf.Tensor1D, tf.Tensor2D] {
  const attributes = [T, attribute.type('Tlabels', dtypes.int32.code)];
  return operation('SparseSoftmaxCrossEntropyWithLogits', attributes, [logits, labels]) as [tf.Tensor1D, tf.Tensor2D];
}
