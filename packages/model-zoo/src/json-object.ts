import { isObject, UserError } from '@blockwise/errors';
import { readFileSync, statSync } from 'node:fs';
import { scanJson } from './json-scan.ts';

/** A JSON object whose fields are still to be looked at. */
export type JsonObject = Record<string, unknown>;

/** Deeper than any config or index, shallow enough to parse in little memory. */
const maxDepth = 100;

/** Reads a JSON object of at most `maxBytes`. @throws UserError where it is absent, too large or not a JSON object. */
export function readJsonObject(path: string, maxBytes: number): JsonObject {
  const text = readBounded(path, maxBytes);
  if (scanJson(text, maxDepth).tooDeep) throw new UserError(`${path}: nests deeper than ${maxDepth} brackets`);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new UserError(`${path}: not valid JSON (${(error as Error).message})`);
  }
  if (!isObject(value)) throw new UserError(`${path}: expected a JSON object, found ${brief(value)}`);
  return value;
}

function readBounded(path: string, maxBytes: number): string {
  try {
    const found = statSync(path);
    const { size } = found;
    // Of a device that a link leads to, there is no end.
    if (!found.isFile()) throw new UserError(`${path}: expected a file, found a folder or device`);
    if (size > maxBytes)
      throw new UserError(`${path}: ${size} bytes, more than the ${maxBytes} expected of such a file`);
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (error instanceof UserError) throw error;
    const code = (error as NodeJS.ErrnoException).code;
    throw new UserError(
      `${path}: cannot be read (${code}); expected a model folder in Hugging Face layout, which holds it`,
    );
  }
}

/** A value as JSON, cut to fit a line of a message, without characters that a terminal obeys. */
export function brief(value: unknown): string {
  const text = JSON.stringify(value) ?? 'nothing';
  const cut = text.length > 60 ? `${text.slice(0, 57)}...` : text;
  // JSON.stringify() escapes only those below 32.
  return cut.replace(/[\x7f-\x9f]/g, (control) => `\\u00${control.charCodeAt(0).toString(16)}`);
}

/** A name out of a file, for a message: as it stands where it looks like one, else brief(). */
export function briefName(name: string): string {
  return /^[\w.-]{1,200}$/.test(name) ? name : brief(name);
}

/** Lines of one kind in one message. */
export const maxListed = 50;

/** The first of many lines for a message, and how many more there are. */
export function shorten(lines: readonly string[]): string[] {
  if (lines.length <= maxListed) return [...lines];
  return [...lines.slice(0, maxListed), `and ${lines.length - maxListed} more like these`];
}
