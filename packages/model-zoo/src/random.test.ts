import { expect, test } from 'vitest';

import { seededRandom, xoshiro128 } from './random.ts';

test("xoshiro128** gives the reference implementation's numbers", () => {
  // xoshiro128starstar.c 1.1 from state {1, 2, 3, 4}, as in the tests of the rand_xoshiro crate.
  const next = xoshiro128([1, 2, 3, 4]);
  const reference = [
    11520, 0, 5927040, 70819200, 2031721883, 1637235492, 1287239034, 3734860849, 3729100597, 4258142804,
  ];
  expect(reference.map(() => next())).toEqual(reference);
});

test('a seed gives one sequence, uniform in [0, 1), and another seed another', () => {
  const draw = (seed: number, count: number): number[] => Array.from({ length: count }, seededRandom(seed));
  expect(draw(5, 4)).toEqual(draw(5, 4));
  const firsts = [0, 1, 2, -1, 2 ** 32, 2 ** 33, Number.MAX_SAFE_INTEGER].map((seed) => draw(seed, 1)[0]);
  expect(new Set(firsts).size).toBe(7);
  const many = draw(0, 100_000);
  const deciles = Array.from({ length: 10 }, (_, i) => many.filter((x) => Math.floor(x * 10) === i).length);
  // Binomial: standard deviation 95, so 5 of them.
  for (const count of deciles) expect(Math.abs(count - 10_000)).toBeLessThan(475);
});
