/** Repeated measurements of one thing. */
export interface Spread {
  median: number;
  min: number;
  max: number;
}

/** @throws `internal:` without values */
export function spread(values: readonly number[]): Spread {
  if (values.length === 0) throw new Error('internal: nothing was measured');
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  const median = sorted.length % 2 === 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  return { median, min: sorted[0], max: sorted[sorted.length - 1] };
}
