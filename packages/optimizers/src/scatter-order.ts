import { hash } from './hash.ts';

const rounds = 4;

/**
 * Places `from` to `from + count` (on past the end from the beginning) of a random order of 0 ... n-1, n up to 2^31, that `seed` determines:
 * successive stretches of it cover everything once. No place needs the others: a bijection of b-bit numbers (n <= 2^b < 2n), walked until it
 * comes to a number below n (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002: cycle walking).
 */
export function scatteredIndices(n: number, from: number, count: number, seed: number): Int32Array {
  const bits = Math.max(1, 32 - Math.clz32(n - 1));
  const mask = 2 ** bits - 1;
  const shift = Math.ceil(bits / 2);
  const factors = Array.from({ length: rounds }, (_, round) => hash(seed, round, 0) | 1);
  const terms = Array.from({ length: rounds }, (_, round) => hash(seed, round, 1));
  return Int32Array.from({ length: count }, (_, i) => {
    let x = (from + i) % n;
    do
      for (let round = 0; round < rounds; round++) {
        x = (Math.imul(x, factors[round]) + terms[round]) & mask;
        x ^= x >>> shift;
      }
    while (x >= n);
    return x;
  });
}
