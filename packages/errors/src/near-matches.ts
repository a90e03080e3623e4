import { distance } from 'fastest-levenshtein';

/**
 * The candidates that a mistyped `name` may have meant, nearest first: those within a third of its length in edits (at least
 * two), or that contain it, whatever the case.
 * @param limit how many at most
 */
export function nearMatches(name: string, candidates: Iterable<string>, limit = 3): string[] {
  const wanted = name.toLowerCase();
  const allowed = Math.max(2, Math.floor(wanted.length / 3));
  return [...new Set(candidates)]
    .map((candidate) => {
      const found = candidate.toLowerCase();
      const contains = wanted.length >= 3 && found.length >= 3 && (found.includes(wanted) || wanted.includes(found));
      return { candidate, edits: contains ? 1 : distance(wanted, found) };
    })
    .filter(({ edits }) => edits <= allowed)
    .sort((a, b) => a.edits - b.edits || (a.candidate < b.candidate ? -1 : 1))
    .slice(0, limit)
    .map(({ candidate }) => candidate);
}

/** The candidate fewest edits away from `name`, whatever the case: at most a third of its letters, the first of equals; else undefined. */
export function nearMatch(name: string, candidates: Iterable<string>): string | undefined {
  let best: string | undefined;
  let least = Math.floor(name.length / 3) + 1;
  for (const candidate of candidates) {
    if (Math.abs(candidate.length - name.length) >= least) continue;
    const edits = distance(name.toLowerCase(), candidate.toLowerCase());
    if (edits < least) [best, least] = [candidate, edits];
  }
  return best;
}

/** nearMatch() for a message: ` (did you mean ...?)`, or nothing. */
export function didYouMean(name: string, candidates: Iterable<string>): string {
  const near = nearMatch(name, candidates);
  return near === undefined ? '' : ` (did you mean ${near}?)`;
}
