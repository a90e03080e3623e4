/**
 * Seeded random numbers for shuffling: xoshiro128** 1.1 of Blackman and Vigna (prng.di.unimi.it), whose 128-bit state
 * is filled by splitmix32 from (seed, stream). A stream is an epoch number: the order of an epoch depends on (seed,
 * epoch) alone, so a resumed run needs no generator state.
 */
export interface Random {
  /** The next 32 random bits as an integer in [0, 2^32). */
  uint32(): number;
  /** An unbiased integer in [0, bound); bound is an integer in [1, 2^32]. */
  below(bound: number): number;
}

const rotateLeft = (x: number, bits: number): number => (x << bits) | (x >>> (32 - bits));

/** The generator from its four 32-bit words of state, which must not all be zero. */
export function xoshiro128(state: readonly [number, number, number, number]): Random {
  let [a, b, c, d] = state.map((word) => word | 0) as [number, number, number, number];
  const uint32 = (): number => {
    const result = Math.imul(rotateLeft(Math.imul(b, 5), 7), 9) >>> 0;
    const t = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= t;
    d = rotateLeft(d, 11);
    return result;
  };
  const below = (bound: number): number => {
    // Plain `uint32() % bound` would favour small values: draw again from the incomplete last interval.
    const limit = 2 ** 32 - (2 ** 32 % bound);
    let x = uint32();
    while (x >= limit) x = uint32();
    return x % bound;
  };
  return { uint32, below };
}

/** The generator of one stream (an epoch, or any other use) of a seed; both are non-negative integers below 2^53. */
export function createRandom(seed: number, stream = 0): Random {
  const words = [seed, Math.floor(seed / 2 ** 32), stream, Math.floor(stream / 2 ** 32)];
  let x = 0;
  const mix = (word: number): number => {
    // One absorbed word, then a splitmix32 step (the 32-bit finaliser of MurmurHash3 over a Weyl sequence).
    x = (x ^ word) + 0x9e3779b9;
    let z = x | 0;
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
    x = z ^ (z >>> 16);
    return x;
  };
  for (const word of words) mix(word | 0);
  // The words of state follow from the absorbed (seed, stream); | 1 keeps the forbidden all-zero state out of reach.
  return xoshiro128([mix(1), mix(2), mix(3), mix(4) | 1]);
}

/** Shuffles an array in place (Fisher-Yates) and returns it. */
export function shuffle<T extends { length: number; [index: number]: number }>(items: T, random: Random): T {
  for (let i = items.length - 1; i > 0; i--) {
    const j = random.below(i + 1);
    const kept = items[i]!;
    items[i] = items[j]!;
    items[j] = kept;
  }
  return items;
}
