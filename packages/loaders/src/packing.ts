/**
 * Puts examples into rows of at most `capacity` tokens: each row takes the longest example that still fits until none
 * does (LLaMA-Factory, src/llamafactory/data/processor/processor_utils.py, `greedy_knapsack`, commit ff6d4d1).
 * @param lengths tokens per example, each in [1, capacity]
 * @param order the order in which examples of equal length are taken
 * @returns the example indices of each row
 */
export function packExamples(lengths: readonly number[], capacity: number, order: Iterable<number>): number[][] {
  const waiting: number[][] = Array.from({ length: capacity + 1 }, () => []);
  for (const index of order) waiting[lengths[index]!]!.push(index);
  for (const sameLength of waiting) sameLength.reverse();
  let left = lengths.length;
  const rows: number[][] = [];
  while (left > 0) {
    const row: number[] = [];
    let room = capacity;
    for (let length = room; length > 0;) {
      const index = length <= room ? waiting[length]!.pop() : undefined;
      if (index === undefined) length -= 1;
      else {
        row.push(index);
        room -= length;
        length = Math.min(length, room);
      }
    }
    left -= row.length;
    rows.push(row);
  }
  return rows;
}
