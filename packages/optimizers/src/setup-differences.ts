import { isObject } from '@blockwise/errors';
import { isDeepStrictEqual } from 'node:util';
import type { JsonObject, JsonValue } from './optimizer.ts';

/** A line for each part of the setup that a checkpoint of an optimizer of this kind has otherwise. */
export function setupDifferences(kind: string, found: JsonValue, expected: JsonObject): string[] {
  if (!isObject(found)) return [`it is not a ${kind}'s`];
  const brief = (value: unknown) => {
    const text = JSON.stringify(value) ?? 'nothing';
    return text.length > 80 ? `${text.slice(0, 77)}...` : text;
  };
  return Object.keys(expected)
    .filter((key) => !isDeepStrictEqual(found[key], expected[key]))
    .map((key) => `${key} was ${brief(found[key])} and is ${brief(expected[key])} now: give the options of that run`);
}
