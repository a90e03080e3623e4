import { expect, test } from 'vitest';

import { nearMatch } from './near-matches.ts';

test('finds the name spelled most alike, at most a third of its letters apart', () => {
  expect(nearMatch('hiden_size', ['head_dim', 'hidden_size', 'hidden_act'])).toBe('hidden_size');
  expect(nearMatch('hidden_size', ['hidden_sizes', 'hidden_size'])).toBe('hidden_size');
  expect(nearMatch('colour', ['vocab_size', 'dtype'])).toBeUndefined();
  expect(nearMatch('abc', [])).toBeUndefined();
});
