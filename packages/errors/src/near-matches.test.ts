import { describe, expect, it } from 'vitest';
import { didYouMean, nearMatch, nearMatches } from './near-matches.ts';

describe('nearMatches', () => {
  const names = ['alpaca_gpt4_en', 'alpaca_gpt4_zh', 'alpaca_en', 'lima', 'slimorca'];

  it('puts the nearest first, whatever the case, and leaves out what is far', () => {
    expect(nearMatches('alpaca_gpt_en', names)[0]).toBe('alpaca_gpt4_en');
    expect(nearMatches('LIMA', names)[0]).toBe('lima');
    expect(nearMatches('kitten', ['sitting', 'mitten', 'smitten', 'dog'])).toEqual(['mitten', 'smitten']); // distances 3, 1, 2
    expect(nearMatches('wikitext', names)).toEqual([]);
  });

  it('finds a name that contains what was typed, and gives at most the number asked for', () => {
    expect(nearMatches('orca', names)).toContain('slimorca');
    expect(nearMatches('alpaca', names, 2)).toHaveLength(2);
  });
});

describe('nearMatch', () => {
  it('finds the name spelled most alike, at most a third of its letters apart, whatever the case', () => {
    expect(nearMatch('hiden_size', ['head_dim', 'hidden_size', 'hidden_act'])).toBe('hidden_size');
    expect(nearMatch('hidden_size', ['hidden_sizes', 'hidden_size'])).toBe('hidden_size');
    expect(nearMatch('Hidden_Siz', ['hidden_size'])).toBe('hidden_size');
    expect(nearMatch('colour', ['vocab_size', 'dtype'])).toBeUndefined();
    expect(nearMatch('abc', [])).toBeUndefined();
  });

  it('is a question in a message', () => {
    expect(didYouMean('acsending', ['random', 'ascending'])).toBe(' (did you mean ascending?)');
    expect(didYouMean('sorted', ['random', 'ascending'])).toBe('');
  });
});
