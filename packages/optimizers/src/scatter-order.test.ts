import { expect, test } from 'vitest';
import { scatteredIndices } from './scatter-order.ts';

const sorted = (values: Int32Array) => [...values.slice().sort()];

test.each([1, 2, 3, 12, 64, 1000, 4099])(
  '%d places: the order has each once, stretches of it are what they are of the whole',
  (n) => {
    const whole = scatteredIndices(n, 0, n, 7);
    expect(sorted(whole)).toEqual(Array.from({ length: n }, (_, i) => i));
    const third = Math.ceil(n / 3);
    // The last stretch goes on from the beginning.
    for (const from of [0, third, (2 * third) % n])
      expect([...scatteredIndices(n, from, third, 7)]).toEqual(
        Array.from({ length: third }, (_, i) => whole[(from + i) % n]),
      );
  },
);

test('it looks random: no trend along the order, half of the neighbours ascend, seeds differ', () => {
  const n = 10007;
  for (const seed of [0, 1, 2, 12345]) {
    const order = scatteredIndices(n, 0, n, seed);
    const middle = (n - 1) / 2;
    // Spearman's rank correlation of a random order has a standard deviation of 1 / sqrt(n - 1), 0.01; of ascents there are 1/2 +- 0.003.
    const correlation =
      order.reduce((sum, place, i) => sum + (place - middle) * (i - middle), 0) / ((n * (n * n - 1)) / 12);
    expect(Math.abs(correlation)).toBeLessThan(0.04);
    const ascents = order.filter((place, i) => i > 0 && place > order[i - 1]).length / n;
    expect(Math.abs(ascents - 0.5)).toBeLessThan(0.012);
    const other = scatteredIndices(n, 0, n, seed + 1);
    expect(order.filter((place, i) => place === other[i]).length).toBeLessThan(20);
  }
});
