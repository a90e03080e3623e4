import { describe, expect, it } from 'vitest';
import { createRandom, shuffle, xoshiro128 } from './random.ts';

describe('xoshiro128**', () => {
  it('gives the first outputs of the reference C code', () => {
    // Test data of edorfaus/xoshiro-6502 (test-rom/testdata.asm), made with the authors' C code.
    const random = xoshiro128([0x964d4a0c, 0xd40ab895, 0xad7fdecb, 0x3006f0f0]);
    const outputs = Array.from({ length: 4 }, () => random.uint32());
    expect(outputs).toEqual([0xf1391922, 0x6fe53806, 0xa5be2840, 0xf510ee70]);
  });

  it('draws below a bound without favour', () => {
    const random = createRandom(1);
    const counts = new Array<number>(7).fill(0);
    for (let i = 0; i < 70_000; i++) counts[random.below(7)]! += 1;
    // Chi-squared with 6 degrees of freedom: above 22.5 once in a thousand seeds.
    const chiSquared = counts.reduce((sum, count) => sum + (count - 10_000) ** 2 / 10_000, 0);
    expect(chiSquared).toBeLessThan(22.5);
  });

  it('has an own stream for each (seed, epoch), large seeds included', () => {
    const pairs = [
      [0, 0],
      [0, 1],
      [1, 0],
      [1, 1],
      [2 ** 32, 0],
      [0, 2 ** 32],
      [2 ** 52, 3],
      [42, 2 ** 52],
    ] as const;
    const starts = pairs.map(([seed, stream]) => createRandom(seed, stream).uint32());
    expect(new Set(starts).size).toBe(pairs.length);
    expect(createRandom(42, 3).uint32()).toBe(createRandom(42, 3).uint32());
  });
});

describe('shuffle', () => {
  it('gives every permutation about equally often', () => {
    const random = createRandom(5);
    const counts = new Map<string, number>();
    for (let i = 0; i < 12_000; i++) {
      const key = shuffle([0, 1, 2, 3], random).join('');
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    expect(counts.size).toBe(24);
    const chiSquared = [...counts.values()].reduce((sum, count) => sum + (count - 500) ** 2 / 500, 0);
    // 23 degrees of freedom: above 49.7 once in a thousand.
    expect(chiSquared).toBeLessThan(49.7);
  });
});
