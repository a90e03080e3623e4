import { expect, test } from 'vitest';
import { blockOrder, type BlockOrderOptions } from './block-order.ts';
import { switchBlockEvery } from './index.ts';

const visits = (blocks: number, count: number, options: BlockOrderOptions) => {
  const { blockAt } = blockOrder(blocks, options);
  return Array.from({ length: count }, (_, i) => blockAt(i));
};

test('ascending, descending and fixed go round from their start', () => {
  expect(visits(3, 7, { switchMode: 'ascending' })).toEqual([0, 1, 2, 0, 1, 2, 0]);
  expect(visits(3, 7, { switchMode: 'descending' })).toEqual([2, 1, 0, 2, 1, 0, 2]);
  expect(visits(4, 6, { switchMode: 'ascending', startBlock: 2 })).toEqual([2, 3, 0, 1, 2, 3]);
  expect(visits(4, 6, { switchMode: 'descending', startBlock: 1 })).toEqual([1, 0, 3, 2, 1, 0]);
  expect(visits(4, 3, { switchMode: 'fixed' })).toEqual([0, 0, 0]);
  expect(visits(4, 3, { switchMode: 'fixed', startBlock: 3 })).toEqual([3, 3, 3]);
  expect(visits(4, 5, { order: [3, 1] })).toEqual([3, 1, 3, 1, 3]);
});

test('random trains every block once per block-epoch, in an order of its own that the seed determines', () => {
  const D = 7;
  const epochs = 200;
  const all = visits(D, D * epochs, { seed: 11 });
  const rounds = Array.from({ length: epochs }, (_, epoch) => all.slice(D * epoch, D * (epoch + 1)));
  for (const round of rounds) expect([...round].sort()).toEqual([0, 1, 2, 3, 4, 5, 6]);
  expect(new Set(rounds.map(String)).size).toBeGreaterThan(190);
  // Each block comes first in about 1 of 7: 200/7 = 28.6, standard deviation 4.9, five of them allowed.
  for (let block = 0; block < D; block++)
    expect(Math.abs(rounds.filter(([first]) => first === block).length - epochs / D)).toBeLessThan(25);
  expect(visits(D, D * epochs, { seed: 11 })).toEqual(all);
  expect(visits(D, D * epochs, { seed: 12 })).not.toEqual(all);
});

test('random with startBlock begins with it and still trains every block once', () => {
  for (let startBlock = 0; startBlock < 5; startBlock++) {
    const [first, ...rest] = visits(5, 5, { startBlock, seed: startBlock });
    expect(first).toBe(startBlock);
    expect([first, ...rest].sort()).toEqual([0, 1, 2, 3, 4]);
  }
});

test('switchBlockEvery is n / (B D) between 50 and 100 (paper, table 10)', () => {
  expect(switchBlockEvery(52_000, 16, 32)).toBe(100);
  expect(switchBlockEvery(52_000, 16, 64)).toBe(50);
  expect(switchBlockEvery(40_000, 16, 32)).toBe(78);
  expect(switchBlockEvery(999, 2, 5)).toBe(99);
  expect(() => switchBlockEvery(0, 2, NaN)).toThrow(
    'switchBlockEvery(n, B, D): 2 problems\n  - n is 0, expected a positive number\n  - D is NaN, expected a positive number',
  );
});
