import { createRandom, shuffle } from './random.ts';

/**
 * The order in which an epoch visits rows. Shuffled, it depends on (seed, epoch) alone. Grouped by length it follows
 * transformers' `get_length_grouped_indices` (trainer_pt_utils.py): shuffled megabatches of min(n / (4 B), 50)
 * times B rows, B being those of a step, each sorted by length, longest first, the very longest row of all coming first, so that a lack of memory
 * shows at once. Neither: as they lie; grouped only: by length, longest first.
 * @param lengths tokens per row
 * @returns a permutation of 0 ... lengths.length - 1
 */
export function epochOrder(
  lengths: readonly number[],
  options: { epoch: number; seed: number; stepSize: number; shuffle: boolean; groupByLength: boolean },
): Int32Array {
  const order = Int32Array.from(lengths, (_, i) => i);
  const longestFirst = (a: number, b: number): number => lengths[b]! - lengths[a]!;
  if (options.shuffle) shuffle(order, createRandom(options.seed, options.epoch));
  if (!options.groupByLength) return order;
  if (!options.shuffle) return order.sort(longestFirst);
  const n = order.length;
  const size = Math.max(1, Math.min(Math.floor(n / (options.stepSize * 4)), 50)) * options.stepSize;
  let longest = 0;
  for (let start = 0; start < n; start += size) {
    order.subarray(start, start + size).sort(longestFirst);
    if (lengths[order[start]!]! > lengths[order[longest]!]!) longest = start;
  }
  if (n > 0) [order[0], order[longest]] = [order[longest]!, order[0]!];
  return order;
}
