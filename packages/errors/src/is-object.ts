/** Whether a value, such as one out of a JSON file, is an object whose fields can be looked at: no list, no null. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
