import * as tf from '@tensorflow/tfjs-core';
import { attribute, type Attribute } from './attributes.ts';
import { dtypes } from './dtypes.ts';
import { idOfAny, wrapAny, type AnyTensor } from './raw-tensor.ts';
import { currentRuntime } from './runtime.ts';

/** Operations of TensorFlow that TensorFlow.js lacks or reaches by a slower way. All work at once and inside compiled functions. */

const T = attribute.type('T', dtypes.float32.code);

/** Runs any TensorFlow operation; results of types that TensorFlow.js lacks are RawTensors. Inputs are borrowed; no gradient is recorded. */
export function operation<Outputs extends AnyTensor[] = tf.Tensor[]>(
  name: string,
  attributes: readonly Attribute[],
  inputs: readonly AnyTensor[],
): Outputs {
  return currentRuntime().execute(name, attributes, inputs.map(idOfAny)).map(wrapAny) as Outputs;
}

/** The product of two float32 matrices, each transposed on request; no gradient is recorded. */
export function matMul2d(a: tf.Tensor, b: tf.Tensor, transposeA = false, transposeB = false): tf.Tensor2D {
  const attributes = [T, attribute.bool('transpose_a', transposeA), attribute.bool('transpose_b', transposeB)];
  return operation('MatMul', attributes, [a, b])[0] as tf.Tensor2D;
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
