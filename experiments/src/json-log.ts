import { appendFileSync, existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';

/** A log of one JSON object a line, each with the step it belongs to. */
export interface JsonLog<T extends { step: number }> {
  /** What a resumed run already wrote, in order. */
  readonly entries: readonly T[];
  append(entry: T): void;
}

/**
 * Opens a log for a run that begins (`doneSteps` 0: an earlier log is emptied) or goes on: entries beyond `doneSteps`, and a
 * last line that a kill cut short, are dropped, so that the log ends up as if the run had never stopped.
 */
export function openJsonLog<T extends { step: number }>(path: string, doneSteps = 0): JsonLog<T> {
  const lines = doneSteps > 0 && existsSync(path) ? readFileSync(path, 'utf8').split('\n') : [];
  const entries = lines.flatMap((line) => parseEntry<T>(line)).filter(({ step }) => step <= doneSteps);
  writeFileSync(`${path}.part`, entries.map((entry) => `${JSON.stringify(entry)}\n`).join(''));
  renameSync(`${path}.part`, path);
  return { entries, append: (entry) => appendFileSync(path, `${JSON.stringify(entry)}\n`) };
}

function parseEntry<T extends { step: number }>(line: string): T[] {
  try {
    const entry: unknown = JSON.parse(line);
    return typeof (entry as T | null)?.step === 'number' ? [entry as T] : [];
  } catch {
    return [];
  }
}
