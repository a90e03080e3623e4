import { describe, expect, it } from 'vitest';
import { nearMatches } from './near-matches.ts';

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
