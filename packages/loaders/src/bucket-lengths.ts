/** Lengths are multiples of this, which suits matrix kernels and keeps the choice below small. */
const multiple = 16;

/**
 * The few lengths to which batches are padded: compiled functions are made once per shape, so shapes must be few, and
 * padding is wasted work. Among multiples of 16 (the last one capped at `maxLength`) the choice of at most `count`
 * with the least expected padded length, found exactly by dynamic programming over the lengths of the examples.
 * @param lengths the lengths of the examples, in tokens
 * @param options.together how many examples of unlike lengths share a batch: the longest of that many decides its
 *   length. 1 when batches are grouped by length.
 * @param options.maxLength no bucket is longer; no example may be. Default: no cap.
 * @returns ascending lengths, of which the last holds the longest example
 */
export function bucketLengths(
  lengths: readonly number[],
  options: { count?: number; together?: number; maxLength?: number } = {},
): number[] {
  const { count = 6, together = 1, maxLength = Infinity } = options;
  const candidates = [...new Set(lengths.map((length) => Math.min(roundUp(length), maxLength)))].sort((a, b) => a - b);
  const n = candidates.length;
  // below[i]: the probability that all examples of a batch fit in candidates[i - 1].
  const below = new Float64Array(n + 1);
  const indexOf = new Map(candidates.map((length, i) => [length, i]));
  for (const length of lengths) below[indexOf.get(Math.min(roundUp(length), maxLength))! + 1]! += 1;
  for (let i = 0; i < n; i++) below[i + 1]! += below[i]!;
  for (let i = 0; i <= n; i++) below[i] = (below[i]! / lengths.length) ** together;

  // cost[i]: the least expected length when k buckets cover candidates[0 .. i - 1], the last being candidates[i - 1].
  let cost = new Float64Array(n + 1).fill(Infinity);
  cost[0] = 0;
  const choices: Int32Array[] = [];
  for (let k = 0; k < Math.min(count, n); k++) {
    const next = new Float64Array(n + 1).fill(Infinity);
    const from = new Int32Array(n + 1);
    next[0] = 0;
    for (let i = 1; i <= n; i++) {
      for (let j = 0; j < i; j++) {
        const total = cost[j]! + (below[i]! - below[j]!) * candidates[i - 1]!;
        if (total < next[i]!) {
          next[i] = total;
          from[i] = j;
        }
      }
    }
    cost = next;
    choices.push(from);
  }
  const chosen: number[] = [];
  for (let i = n, k = choices.length - 1; i > 0; k--) {
    chosen.unshift(candidates[i - 1]!);
    i = choices[k]![i]!;
  }
  return chosen;
}

/** The next multiple of 16, at least 16. */
function roundUp(length: number): number {
  return Math.max(multiple, Math.ceil(length / multiple) * multiple);
}
