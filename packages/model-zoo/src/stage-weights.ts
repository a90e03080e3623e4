import { cast, castAfter, RawTensor, type AnyTensor, type tf } from '@blockwise/tensorflow';
import type { StageWeights } from './stages.ts';

const kept = Symbol('weights at rest');

/**
 * The weights of a stage inside a compiled function. Each is cast when it is first read: floats to float32, packed whole numbers
 * (quantised codes) to int32. A function that can do with a 16-bit weight as it is kept asks weightAtRest() and spares the copy.
 */
export function stageWeights(entries: readonly (readonly [name: string, value: AnyTensor])[]): StageWeights {
  const weights = { [kept]: new Map(entries) };
  for (const [name, value] of entries) {
    let computed: tf.Tensor | undefined;
    const get = () => (computed ??= cast(value, /^u?int/.test(value.dtype) ? 'int32' : 'float32'));
    Object.defineProperty(weights, name, { get, enumerable: true });
  }
  return weights as unknown as StageWeights;
}

/** The same with some weights replaced by tensors, those that a gradient is taken by. */
export function replaceWeights(weights: StageWeights, replaced: Readonly<Record<string, tf.Tensor>>): StageWeights {
  // Trained weights may be 16 bits at rest (LOMO): what they are replaced by must not be passed over.
  const rest = new Map((weights as { [kept]?: Map<string, AnyTensor> })[kept]);
  for (const name of Object.keys(replaced)) rest.delete(name);
  return Object.create(weights, {
    ...Object.getOwnPropertyDescriptors(replaced),
    [kept]: { value: rest },
  }) as StageWeights;
}

/** The weight as it is kept, whatever its dtype; unlike a tensor that is made of it, it outlives the forward run. */
export function storedWeight(weights: StageWeights, name: string): AnyTensor {
  return (weights as { [kept]?: Map<string, AnyTensor> })[kept]?.get(name) ?? weights[name];
}

/** The weight as it is kept, where it is frozen and takes less than float32 (16 bits, quantised codes); else as a tensor. */
export function weightAtRest(weights: StageWeights, name: string): AnyTensor {
  const value = storedWeight(weights, name);
  const frozen = value instanceof RawTensor && /^(bfloat16|float16|u?int8)$/.test(value.dtype);
  return frozen ? value : weights[name];
}

/**
 * Quantised codes of a weight as float32 whole numbers, made no sooner than `previous` exists: without that all weights of a stage would be
 * unpacked at its start and held together.
 */
export function codesAtRest(weights: StageWeights, name: string, previous: tf.Tensor): tf.Tensor {
  const codes = weightAtRest(weights, name);
  return codes instanceof RawTensor ? castAfter(codes, previous) : codes;
}
