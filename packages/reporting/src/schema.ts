import { isObject } from '@blockwise/errors';

/**
 * Checks of parsed JSON against a shape that TypeScript also sees: a record's type is derived from its schema, so that
 * the two cannot drift apart. Keys that the schema does not name are kept (a later version's file stays readable).
 */
export interface Schema<T> {
  /** What is expected, in words ("a number"). */
  readonly expected: string;
  /** Adds one line to `problems` for each field below `path` that does not fit. */
  check(value: unknown, path: string, problems: string[]): void;
  /** Exists for type inference only; never set. */
  readonly type?: T;
}

/** The TypeScript type that a schema describes. */
export type Infer<S> = S extends Schema<infer T> ? T : never;

function leaf<T>(expected: string, accepts: (value: unknown) => boolean): Schema<T> {
  return {
    expected,
    check(value, path, problems) {
      if (!accepts(value)) problems.push(`${path}: found ${shown(value)}, expected ${expected}`);
    },
  };
}

function shown(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object' && value !== null) return 'an object';
  const text = JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

export const text = leaf<string>('text', (value) => typeof value === 'string');
export const number = leaf<number>('a number', (value) => typeof value === 'number' && Number.isFinite(value));
export const count = leaf<number>(
  'a whole number, 0 or more',
  (value) => Number.isSafeInteger(value) && Number(value) >= 0,
);
export const json = leaf<unknown>('a value', (value) => value !== undefined);

export function oneOf<const T extends readonly (string | number)[]>(...allowed: T): Schema<T[number]> {
  return leaf(allowed.map((value) => JSON.stringify(value)).join(' or '), (value) =>
    allowed.includes(value as T[number]),
  );
}

/** The value, or null where it is not known. */
export function nullable<T>(inner: Schema<T>): Schema<T | null> {
  const expected = `${inner.expected} or null`;
  return {
    expected,
    check(value, path, problems) {
      if (value === undefined) problems.push(`${path}: found nothing, expected ${expected}`);
      else if (value !== null) inner.check(value, path, problems);
    },
  };
}

export function list<T>(inner: Schema<T>): Schema<T[]> {
  return {
    expected: 'a list',
    check(value, path, problems) {
      if (!Array.isArray(value)) problems.push(`${path}: found ${shown(value)}, expected a list`);
      else value.forEach((item, index) => inner.check(item, `${path}[${index}]`, problems));
    },
  };
}

/** An object used as a dictionary: any keys, values of one shape. */
export function dictionary<T>(inner: Schema<T>): Schema<Record<string, T>> {
  return {
    expected: 'an object',
    check(value, path, problems) {
      if (!isObject(value)) problems.push(`${path}: found ${shown(value)}, expected an object`);
      else for (const [key, item] of Object.entries(value)) inner.check(item, `${path}.${key}`, problems);
    },
  };
}

export function object<F extends Record<string, Schema<unknown>>>(fields: F): Schema<{ [K in keyof F]: Infer<F[K]> }> {
  return {
    expected: 'an object',
    check(value, path, problems) {
      if (!isObject(value)) {
        problems.push(`${path || 'the file'}: found ${shown(value)}, expected an object`);
        return;
      }
      for (const [key, schema] of Object.entries(fields))
        schema.check(value[key], path ? `${path}.${key}` : key, problems);
    },
  };
}
