import { linear, unrecorded, type LinearLayer } from '@blockwise/model-zoo';
import { statelessRandom, tf } from '@blockwise/tensorflow';

/** What an adapter's input goes through in training: `name` is the module's in its stage. */
export type Drop = (name: string, x: tf.Tensor2D) => tf.Tensor2D;

/**
 * A linear layer with a low-rank update (LoRA, arXiv 2106.09685, section 4.1): y = base(x) + s B A drop(x), for modules whose stage has the
 * weights `<name>.lora_A.weight`, float32 [r, inputs], and `<name>.lora_B.weight`, float32 [outputs, r]; the others are left as they are.
 *
 * Of its products only base(x) and A x, [N, r], are recorded: B's is cheaper to repeat in the backward run than to keep.
 */
export function loraLinear(base: LinearLayer, scaling: number, drop: Drop = (_, x) => x): LinearLayer {
  return (name, x, weights) => {
    const a = weights[`${name}.lora_A.weight`];
    if (!a) return base(name, x, weights);
    // Before the base's: the last product of a stage is not kept.
    const low = tf.mul(linear(drop(name, x), a), scaling) as tf.Tensor2D;
    const update = unrecorded(() => linear(low, weights[`${name}.lora_B.weight`]));
    return tf.add(base(name, x, weights), update);
  };
}

/**
 * Dropout: each element is 0 with probability `rate`, else divided by 1 - rate (torch.nn.Dropout). The mask is a function of the seeds and
 * of nothing else, so a second run of the stage, for the gradients, sees the same one.
 * @param x float32 [N, inputs]
 * @param seeds int32 scalars: the batch's, and the module's
 */
export function dropout(x: tf.Tensor2D, rate: number, seeds: [tf.Tensor, tf.Tensor]): tf.Tensor2D {
  const uniform = statelessRandom('Uniform', x.shape, tf.stack(seeds));
  const kept = tf.cast(tf.greaterEqual(uniform, rate), 'float32');
  return tf.mul(x, tf.mul(kept, 1 / (1 - rate)));
}
