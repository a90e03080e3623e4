import { appendFileSync, existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';

/** A line of a log: one JSON object with the step it belongs to. */
export type LogEntry = { readonly step: number } & Readonly<Record<string, unknown>>;

/** A log of one JSON object a line. */
export interface JsonLog {
  append(entry: LogEntry): void;
}

/**
 * Opens a log for a run that begins (`doneSteps` 0: an earlier log is emptied) or goes on: entries beyond `doneSteps`, and a
 * last line that a kill cut short, are dropped, so that the log ends up as if the run had never stopped.
 */
export function openJsonLog(path: string, doneSteps = 0): JsonLog {
  const lines = doneSteps > 0 && existsSync(path) ? readFileSync(path, 'utf8').split('\n') : [];
  const entries = lines.flatMap((line) => parseEntry(line)).filter(({ step }) => step <= doneSteps);
  writeFileSync(`${path}.part`, entries.map((entry) => `${JSON.stringify(entry)}\n`).join(''));
  renameSync(`${path}.part`, path);
  return { append: (entry) => appendFileSync(path, `${JSON.stringify(entry)}\n`) };
}

function parseEntry(line: string): LogEntry[] {
  try {
    const entry: unknown = JSON.parse(line);
    return typeof (entry as LogEntry | null)?.step === 'number' ? [entry as LogEntry] : [];
  } catch {
    return [];
  }
}
