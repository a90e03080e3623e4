import { expect, it } from 'vitest';
import { isObject } from './is-object.ts';

it('tells objects from lists, null and plain values', () => {
  expect([{}, { a: 1 }].every(isObject)).toBe(true);
  expect([[], null, undefined, 'text', 1, true].filter(isObject)).toEqual([]);
});
