import { Parameter, RawTensor, tf, type DType } from '@blockwise/tensorflow';
import { hash } from './hash.ts';
import type { Optimizer } from './optimizer.ts';

/** Parameters and gradients for tests: no model, Hugging Face names. */

const modules = ['self_attn.q_proj', 'self_attn.o_proj', 'mlp.up_proj', 'input_layernorm'];

export const smallNames: readonly string[] = [
  'model.embed_tokens.weight',
  ...Array.from({ length: 4 }, (_, i) => modules.map((module) => `model.layers.${i}.${module}.weight`)).flat(),
  'model.norm.weight',
  'lm_head.weight',
];

export const smallShape = [4, 3];

/** Numbers in [-1, 1) that a name and a number determine. */
export function noise(name: string, number: number): Float32Array {
  const seed = hash(...[...name].map((letter) => letter.charCodeAt(0)), number);
  return Float32Array.from({ length: 12 }, (_, i) => hash(seed, i) / 2 ** 31 - 1);
}

export function smallParameters(dtype: DType = 'bfloat16', names = smallNames): Parameter[] {
  return names.map((name) => {
    const values = noise(name, 0);
    const bytes = dtype === 'float32' ? new Uint8Array(values.buffer) : upperHalves(values);
    return new Parameter(name, RawTensor.fromBytes(bytes, smallShape, dtype));
  });
}

/** float32 cut off to bfloat16. */
function upperHalves(values: Float32Array): Uint8Array {
  return new Uint8Array(Uint16Array.from(new Uint32Array(values.buffer), (bits) => bits >>> 16).buffer);
}

/** Steps first+1 to last with gradients that depend on the parameter and the step alone, and a falling learning rate. */
export function takeSteps(optimizer: Optimizer, first: number, last: number): void {
  for (let step = first + 1; step <= last; step++) {
    optimizer.learningRate = 0.05 / step;
    optimizer.beginStep();
    for (const name of optimizer.trainable) {
      const gradient = tf.tensor(noise(name, step), smallShape);
      optimizer.update(name, gradient);
      gradient.dispose();
    }
    optimizer.endStep();
  }
}
