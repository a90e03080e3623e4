/** A JSON object whose fields are still to be looked at. */
export type JsonRecord = Record<string, unknown>;

/** A value in a message: what it is and, of one that has no parts, what it says. */
export function describe(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (value === null) return 'null';
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === 'object') return 'an object';
  const text = String(value);
  return `${typeof value} ${typeof value === 'string' ? JSON.stringify(text.slice(0, 40)) : text}`;
}
