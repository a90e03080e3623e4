import { UserError } from '@blockwise/errors';

/**
 * The paper's K, steps per block: n / (B D) clipped to [50, 100] (arXiv 2404.02827, table 10), rounded down, so that one pass over the data
 * trains every block where 50 allows it.
 * @param n training examples
 * @param B examples per optimizer step, over all micro-batches and workers
 * @param D blocks
 * @throws UserError where one is not positive.
 */
export function switchBlockEvery(n: number, B: number, D: number): number {
  const problems = Object.entries({ n, B, D })
    .filter(([, value]) => !(Number.isFinite(value) && value > 0))
    .map(([name, value]) => `${name} is ${value}, expected a positive number`);
  if (problems.length > 0) throw UserError.of('switchBlockEvery(n, B, D)', problems);
  return Math.min(100, Math.max(50, Math.floor(n / (B * D))));
}
