import { describe, expect, it } from 'vitest';
import { createChoices } from './choices.ts';
import { corpus, corpusDocument } from './corpus.ts';
import { faultsOf, wrongSums } from './grammar.test-support.ts';
import { animals, foods, jobs, opposites, seasons, verbs, withArticle } from './world.ts';

describe('corpus', () => {
  const documents = corpus(7, 4_000);

  it('is the same for a seed, in whatever part it is made, and another for another seed', () => {
    expect(corpus(7, 20, 100)).toEqual(documents.slice(100, 120));
    expect(corpusDocument(7, 3)).toBe(documents[3]);
    expect(corpus(8, 20)).not.toEqual(documents.slice(0, 20));
  });

  it('reads as English: capitals, full stops, a and an, no gaps of the templates', () => {
    const faults = documents.flatMap((text) => faultsOf(text));
    expect(faults).toEqual([]);
    console.log(`grammar: ${documents.length} documents checked`);
  });

  it('says only true sums', () => {
    const { checked, wrong } = wrongSums(documents.join('\n'));
    expect(wrong).toEqual([]);
    expect(checked).toBeGreaterThan(300);
  });

  it('keeps count in its stories: what is found is added, what is given away is missed', () => {
    const numbers = 'zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen'.split(' ');
    let checked = 0;
    for (const text of documents) {
      const found = /First \w+ found (\w+) \w+\. Then \w+ found (\w+) more\. Now \w+ had (\w+) /.exec(text);
      if (!found) continue;
      const [first, more, total] = found.slice(1).map((word) => numbers.indexOf(word));
      expect(total, text).toBe(first + more);
      checked++;
    }
    expect(checked).toBeGreaterThan(100);
  });

  it('is varied: few documents repeat, and every animal, food and job of the world occurs', () => {
    expect(new Set(documents).size).toBeGreaterThan(documents.length * 0.95);
    const text = documents.join(' ');
    for (const { name } of [...animals, ...foods, ...jobs]) expect(text, name).toMatch(new RegExp(`\\b${name}\\b`));
    const words = text.toLowerCase().match(/[a-z]+/g)!;
    expect(new Set(words).size).toBeGreaterThan(600);
  });
});

describe('the world', () => {
  it('has no name twice, and verbs with the forms of English', () => {
    for (const list of [animals, foods, jobs, seasons]) {
      const names = list.map(({ name }) => name);
      expect(new Set(names).size).toBe(names.length);
    }
    const sides = opposites.flat();
    expect(new Set(sides).size).toBe(sides.length);
    for (const { base, third } of verbs) expect([`${base}s`, `${base}es`]).toContain(third);
  });

  it('chooses a or an by the sound of the words it has', () => {
    expect(['apple', 'owl', 'elephant', 'umbrella', 'dog', 'young cat'].map(withArticle)).toEqual([
      'an apple',
      'an owl',
      'an elephant',
      'an umbrella',
      'a dog',
      'a young cat',
    ]);
  });
});

describe('createChoices', () => {
  it('stays inside its bounds and reaches all of them', () => {
    const c = createChoices(1);
    const drawn = Array.from({ length: 500 }, () => c.between(2, 5));
    expect(new Set(drawn)).toEqual(new Set([2, 3, 4, 5]));
    expect(new Set(c.sample([1, 2, 3, 4], 4))).toEqual(new Set([1, 2, 3, 4]));
    const heads = Array.from({ length: 2_000 }, () => c.chance(30)).filter(Boolean).length;
    expect(heads / 2_000).toBeCloseTo(0.3, 1);
    expect(() => c.sample([1], 2)).toThrow('internal: 2 of 1 options');
  });
});
