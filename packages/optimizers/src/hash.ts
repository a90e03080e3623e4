import type { Rounding } from '@blockwise/tensorflow';

/**
 * A hash of integers (each of up to 53 bits) to an unsigned 32-bit integer: every word is absorbed into a Weyl sequence and mixed by
 * murmur3's finaliser. Random choices made of a seed and their own position need no generator state, so a resumed run repeats them.
 */
export function hash(...integers: readonly number[]): number {
  let mixed = 0;
  for (const integer of integers)
    for (const word of [integer, Math.floor(integer / 2 ** 32)]) {
      mixed = ((mixed ^ word) + 0x9e3779b9) | 0;
      mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b);
      mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
      mixed ^= mixed >>> 16;
    }
  return mixed >>> 0;
}

/** A rounding with other random numbers at each place (a visit, a parameter, a step), the same ones in a resumed run. */
export function roundingAt(rounding: Rounding | undefined, ...place: readonly number[]): Rounding | undefined {
  if (rounding?.mode !== 'stochastic') return rounding;
  return { mode: 'stochastic', seed: hash(rounding.seed, ...place) };
}
