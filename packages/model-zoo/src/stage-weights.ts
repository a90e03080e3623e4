import { cast, castAfter, RawTensor, type AnyTensor, type tf } from '@blockwise/tensorflow';
import type { StageWeights } from './stages.ts';

const kept = Symbol('weights at rest');
const replacedNames = Symbol('weights that a gradient is taken by');

/** What stageWeights() and replaceWeights() put beside the weights themselves. */
interface Hidden {
  readonly [kept]?: ReadonlyMap<string, AnyTensor>;
  readonly [replacedNames]?: ReadonlySet<string>;
}

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

/** The same with some weights replaced by tensors of the same values, those that a gradient is taken by. */
export function replaceWeights(weights: StageWeights, replaced: Readonly<Record<string, tf.Tensor>>): StageWeights {
  return Object.create(weights, {
    ...Object.getOwnPropertyDescriptors(replaced),
    [replacedNames]: { value: new Set(Object.keys(replaced)) },
  }) as StageWeights;
}

/** The weight as it is kept, whatever its dtype; unlike a tensor that is made of it, it outlives the forward run. No gradient passes it. */
export const storedWeight = (weights: StageWeights, name: string): AnyTensor =>
  (weights as Hidden)[kept]?.get(name) ?? weights[name];

/** The weight as it is kept, where it is frozen and takes less than float32 (16 bits, quantised codes); else as a tensor. */
export function weightAtRest(weights: StageWeights, name: string): AnyTensor {
  // Trained weights may be 16 bits at rest (LOMO): what they are replaced by must not be passed over.
  if ((weights as Hidden)[replacedNames]?.has(name)) return weights[name];
  const value = storedWeight(weights, name);
  const isSmall = value instanceof RawTensor && /^(bfloat16|float16|u?int8)$/.test(value.dtype);
  return isSmall ? value : weights[name];
}

/**
 * Quantised codes of a weight as float32 whole numbers, made no sooner than `previous` exists: without that all weights of a stage would be
 * unpacked at its start and held together.
 */
export function codesAtRest(weights: StageWeights, name: string, previous: tf.Tensor): tf.Tensor {
  const codes = weightAtRest(weights, name);
  return codes instanceof RawTensor ? castAfter(codes, previous) : codes;
}
