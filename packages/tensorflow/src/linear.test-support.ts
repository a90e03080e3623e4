import * as tf from '@tensorflow/tfjs-core';
import { matMul2d } from './operations.ts';

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
