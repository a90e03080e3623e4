/** Levenshtein distance between two names, or `limit + 1` where it is larger than `limit`. */
function distance(a: string, b: string, limit: number): number {
  if (Math.abs(a.length - b.length) > limit) return limit + 1;
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = previous[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(substitution, previous[j]! + 1, row[j - 1]! + 1));
    }
    if (Math.min(...row) > limit) return limit + 1;
    previous = row;
  }
  return Math.min(previous[b.length]!, limit + 1);
}

/** The candidate spelled most like `name` (at most a third of its letters apart, the first of equals), or undefined. */
export function nearMatch(name: string, candidates: Iterable<string>): string | undefined {
  let best: string | undefined;
  let limit = Math.floor(name.length / 3);
  for (const candidate of candidates) {
    const apart = distance(name, candidate, limit);
    if (apart > limit) continue;
    best = candidate;
    if (apart === 0) break;
    limit = apart - 1;
  }
  return best;
}
