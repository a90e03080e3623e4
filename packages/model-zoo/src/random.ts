/** Yields numbers in [0, 1) with 53 random bits. */
export type Random = () => number;

/**
 * xoshiro128** 1.1 of Blackman and Vigna (prng.di.unimi.it): unsigned 32-bit integers from four words of state, not all
 * zero.
 */
export function xoshiro128(state: readonly [number, number, number, number]): () => number {
  let [a, b, c, d] = state.map((word) => word | 0) as [number, number, number, number];
  return () => {
    const result = Math.imul(rotateLeft(Math.imul(b, 5), 7), 9) >>> 0;
    const shifted = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= shifted;
    d = rotateLeft(d, 11);
    return result;
  };
}

function rotateLeft(word: number, bits: number): number {
  return (word << bits) | (word >>> (32 - bits));
}

/** A generator that a seed (an integer of up to 53 bits) determines on every machine. */
export function seededRandom(seed: number): Random {
  let mixed = (seed ^ Math.imul(Math.floor(seed / 2 ** 32), 0x85ebca6b)) | 0;
  const word = (): number => {
    // The murmur3 finaliser over a Weyl sequence: one bit of the seed changes all four words.
    mixed = (mixed + 0x9e3779b9) | 0;
    let x = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b);
    x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
    return x ^ (x >>> 16);
  };
  const next = xoshiro128([word(), word(), word(), word()]);
  return () => ((next() >>> 5) * 2 ** 26 + (next() >>> 6)) / 2 ** 53;
}
