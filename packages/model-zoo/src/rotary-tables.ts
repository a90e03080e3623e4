import type { LlamaConfig } from './config.ts';

/**
 * Angular frequency of each pair of a head's elements, in radians per position: theta^(-2i/D), with the scaling that the model asks for
 * (transformers' modeling_rope_utils.py). In float32 steps, as there.
 */
export function inverseFrequencies({ head_dim: D, rope_parameters: rope }: LlamaConfig): Float32Array {
  const { fround } = Math;
  const plain = Float32Array.from({ length: D / 2 }, (_, i) =>
    fround(1 / fround(rope.rope_theta ** fround((2 * i) / D))),
  );
  switch (rope.rope_type) {
    case 'default':
      return plain;
    case 'linear':
      return plain.map((frequency) => frequency / rope.factor);
    case 'llama3': {
      // Long waves are stretched by `factor`, short ones kept, those between blended.
      const { factor, low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: context } = rope;
      return plain.map((frequency) => {
        const wavelength = (2 * Math.PI) / frequency;
        if (wavelength < context / high) return frequency;
        if (wavelength > context / low) return frequency / factor;
        const smooth = (context / wavelength - low) / (high - low);
        return ((1 - smooth) * frequency) / factor + smooth * frequency;
      });
    }
  }
}

/**
 * Cosines and sines of every position's angles, each repeated over the two halves of a head.
 * @param positions int32 [N]
 * @returns float32 [N, D] each
 */
export function rotaryTables(config: LlamaConfig, positions: Int32Array): { cos: Float32Array; sin: Float32Array } {
  const frequencies = inverseFrequencies(config);
  const half = frequencies.length;
  const cos = new Float32Array(positions.length * 2 * half);
  const sin = new Float32Array(cos.length);
  positions.forEach((position, row) => {
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(position * frequencies[i]);
      const at = row * 2 * half + i;
      cos[at] = cos[at + half] = Math.cos(angle);
      sin[at] = sin[at + half] = Math.sin(angle);
    }
  });
  return { cos, sin };
}
