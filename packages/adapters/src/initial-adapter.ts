import { statelessRandom, takeRaw, tf, type RawTensor } from '@blockwise/tensorflow';
import type { LoraConfig } from './lora-config.ts';

/**
 * The factors that an adapter starts with: see LoraConfig.initLoraWeights (PEFT's lora/layer.py, reset_lora_parameters).
 * @param shape of the adapted weight
 * @param seeds two integers of 32 bits, which no other adapter has
 * @returns a, float32 [r, inputs], and b, float32 [outputs, r]; the caller's
 */
export function initialAdapter(
  [outputs, inputs]: readonly [number, number],
  { r, initLoraWeights }: LoraConfig,
  seeds: readonly [number, number],
): { a: RawTensor; b: RawTensor } {
  const a = () =>
    initLoraWeights === 'gaussian' ? tf.mul(draw('Normal', [r, inputs], seeds), 1 / r) : uniform([r, inputs], seeds);
  const b = () => (initLoraWeights ? tf.zeros([outputs, r]) : uniform([outputs, r], [~seeds[0], seeds[1]]));
  return { a: takeRaw(tf.tidy(a), 'float32'), b: takeRaw(tf.tidy(b), 'float32') };
}

/** torch's kaiming_uniform_ with a = sqrt(5): uniform within 1 / sqrt(columns). */
function uniform(shape: [number, number], seeds: readonly [number, number]): tf.Tensor {
  const unit = draw('Uniform', shape, seeds);
  return tf.mul(tf.sub(tf.mul(unit, 2), 1), 1 / Math.sqrt(shape[1]));
}

function draw(kind: 'Uniform' | 'Normal', shape: [number, number], seeds: readonly [number, number]): tf.Tensor {
  return statelessRandom(kind, shape, tf.tensor1d([...seeds], 'int32'));
}
