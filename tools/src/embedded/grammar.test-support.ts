/** What is wrong with a generated text, in words with the place; empty where nothing is. For tests only. */
export function faultsOf(text: string): string[] {
  const rules: [RegExp, string][] = [
    [/\b[Aa] [aeiou]/, 'a before a vowel'],
    [/\b[Aa]n [^aeiou\s"]/, 'an before a consonant'],
    [/undefined|null|NaN|\[object/, 'a gap of a template'],
    [/ {2}| [.,?!]|\.\.|,,| $/, 'spaces or marks'],
    [/(^|(?<!\d)[.?!] |\." |\n\n)[a-z]/, 'a sentence without a capital'],
    [/\bone \w+ (were|are)\b|\b(two|three|four|five|six) \w+ (was|is)\b/, 'a number and its verb'],
    [/\b(\w+) \1\b/, 'a word twice'],
    [/[^\x20-\x7e\n]/, 'a character outside ASCII'],
  ];
  const faults = rules.flatMap(([rule, name]) => {
    const found = rule.exec(text);
    return found ? [`${name}: ${JSON.stringify(text.slice(Math.max(0, found.index - 20), found.index + 30))}`] : [];
  });
  for (const paragraph of text.split('\n\n')) {
    const isNote = /^#|:$|^(- |\d\. |\(\w\) )/m.test(paragraph);
    if (!isNote && !/[.?!]"?$/.test(paragraph)) faults.push(`no full stop: ${JSON.stringify(paragraph.slice(-40))}`);
  }
  return faults;
}

const numbers =
  'zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty'.split(
    ' ',
  );

/** Every sum and difference that a text states in number words, and those that are wrong. For tests only. */
export function wrongSums(text: string): { checked: number; wrong: string[] } {
  const value = (word: string) => numbers.indexOf(word.toLowerCase());
  let checked = 0;
  const wrong: string[] = [];
  const patterns: [RegExp, (a: number, b: number) => number][] = [
    [/(\w+) plus (\w+) is (\w+)\./g, (a, b) => a + b],
    [/add (\w+) and (\w+), you get (\w+)\./g, (a, b) => a + b],
    [/(\w+) and (\w+) make (\w+)\./g, (a, b) => a + b],
    [/(\w+) minus (\w+) is (\w+)\./g, (a, b) => a - b],
    [/take (\w+) from (\w+), (\w+) (?:is|are) left\./g, (a, b) => b - a],
  ];
  for (const [pattern, result] of patterns) {
    for (const [all, a, b, found] of text.matchAll(pattern)) {
      checked++;
      if (value(a) < 0 || value(b) < 0 || value(found) !== result(value(a), value(b))) wrong.push(all);
    }
  }
  return { checked, wrong };
}
