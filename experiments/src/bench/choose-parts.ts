import process from 'node:process';

/** What a benchmark measures in this run. */
export interface ChosenParts<Part extends string> {
  readonly parts: readonly Part[];
  /** Whether these are all. A record in results/ is of all parts together, so a look at some leaves it as it is. */
  readonly isWhole: boolean;
}

/** The parts that words on the command line name; without words all. Ends the process, with code 2, where a word names none. */
export function chooseParts<Part extends string>(known: readonly Part[], words = typedWords()): ChosenParts<Part> {
  const unknown = words.filter((word) => !(known as readonly string[]).includes(word));
  if (unknown.length > 0) {
    process.stderr.write(`error: ${unknown.join(', ')}: no part of this benchmark; it has: ${known.join('; ')}\n`);
    process.exit(2);
  }
  return {
    parts: words.length === 0 ? known : known.filter((part) => words.includes(part)),
    isWhole: words.length === 0,
  };
}

const typedWords = () => process.argv.slice(2).filter((word) => word !== '--');
