import { nearMatches } from '@blockwise/errors';
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';

/** How a word on the command line becomes a value. */
export interface Kind<T> {
  /** What help shows in place of the value: `<integer>`, `linear|cosine`. */
  readonly label: string;
  /**
   * @param word the value as typed
   * @param folder the folder that relative paths start from
   * @throws Error with what was expected
   */
  parse(word: string, folder: string): T;
  /** The value of the option's bare name (`--plot_loss`), for kinds whose value may be left out. */
  readonly bare?: T;
  /** Paths and names may hold spaces. */
  readonly freeText?: boolean;
}

interface Range {
  /** Smallest and largest value allowed, both included. */
  min?: number;
  max?: number;
  /** Largest value not allowed any more. */
  below?: number;
}

const decimal = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
const truth = new Map([
  ...['true', '1', 'yes', 'on'].map((word) => [word, true] as const),
  ...['false', '0', 'no', 'off'].map((word) => [word, false] as const),
]);

/** true or false, in several spellings; the bare name is true. */
export const flag: Kind<boolean> = {
  label: '[true|false]',
  bare: true,
  parse(word) {
    const value = truth.get(word.toLowerCase());
    if (value === undefined) throw new Error('expected true or false');
    return value;
  },
};

/** A finite number. */
export function real(range: Range = {}): Kind<number> {
  return { label: '<number>', parse: (word) => parseNumber(word, range, false) };
}

/** A whole number. */
export function integer(range: Range = {}): Kind<number> {
  return { label: '<integer>', parse: (word) => parseNumber(word, range, true) };
}

function parseNumber(word: string, { min, max, below }: Range, whole: boolean): number {
  const value = decimal.test(word) ? Number(word) : Number.NaN;
  const fits =
    Number.isFinite(value) &&
    (!whole || Number.isSafeInteger(value)) &&
    value >= (min ?? -Infinity) &&
    value <= (max ?? Infinity);
  if (fits && value < (below ?? Infinity)) return value;
  if (min !== undefined && min === max) throw new Error(`expected ${min}`);
  const bounds = [
    ...(min === undefined ? [] : [`at least ${min}`]),
    ...(max === undefined ? [] : [`at most ${max}`]),
    ...(below === undefined ? [] : [`below ${below}`]),
  ];
  throw new Error(`expected a${whole ? ' whole' : ''} number${bounds.length > 0 ? `, ${bounds.join(' and ')}` : ''}`);
}

/** A number of steps, or, below 1, a share of all steps, as transformers' eval_steps, logging_steps and save_steps may be. */
export function stepsOrShare(range: Range): Kind<number> {
  return {
    label: '<integer>|<share>',
    parse(word) {
      const share = decimal.test(word) ? Number(word) : Number.NaN;
      if (share > 0 && share < 1) return share;
      try {
        return parseNumber(word, range, true);
      } catch (error) {
        throw new Error(`${(error as Error).message}, or a share of all steps below 1`, { cause: error });
      }
    },
  };
}

/** A whole number, or a word that stands for a value of its own; `-1`, which means that word or something else, is left as it is. */
export function integerOr<const W extends string>(word: W, range: Range): Kind<number | W> {
  return {
    label: `<integer>|${word}`,
    parse(typed) {
      if (typed.toLowerCase() === word) return word;
      if (typed === '-1') return -1;
      try {
        return parseNumber(typed, range, true);
      } catch (error) {
        throw new Error(`${(error as Error).message}, or ${word} (or -1)`, { cause: error });
      }
    },
  };
}

/**
 * One of some words.
 * @param others words of the official packages: the allowed one that they mean, or null for what is not there yet
 */
export function choice<const W extends string>(
  allowed: readonly W[],
  others: Readonly<Record<string, NoInfer<W> | null>> = {},
): Kind<W> {
  return {
    label: allowed.join('|'),
    parse(word) {
      const typed = word.toLowerCase();
      const found =
        allowed.find((item) => item === typed) ?? (Object.hasOwn(others, typed) ? others[typed] : undefined);
      if (found) return found;
      const list = allowed.join(', ').replace(/, ([^,]*)$/, ' or $1');
      if (found === null) throw new Error(`not yet available; use ${list}`);
      const near = nearMatches(word, allowed);
      throw new Error(`expected ${list}${near.length > 0 ? ` (did you mean ${near[0]}?)` : ''}`);
    },
  };
}

/** Names of modules, separated by commas. */
export const names: Kind<string[]> = {
  label: '<name,name,...>',
  parse(word) {
    const list = word.split(',').map((name) => name.trim());
    if (list.includes('')) throw new Error('expected names separated by commas');
    return list;
  },
};

/** Several of some words, separated by commas; `none` for none of them, `all` for all. */
export function choices<const W extends string>(allowed: readonly W[]): Kind<W[]> {
  const one = choice<W | 'none' | 'all'>([...allowed, 'none', 'all']);
  return {
    label: `${allowed.join(',')}|none|all`,
    parse(typed) {
      const words = typed.split(',').map((word) => one.parse(word.trim(), ''));
      if (words.includes('all')) return [...allowed];
      if (words.includes('none') && words.length > 1) throw new Error('expected none alone, or a list without it');
      return allowed.filter((word) => words.includes(word));
    },
  };
}

/** A file or folder. */
export const path: Kind<string> = {
  label: '<path>',
  freeText: true,
  parse(word, folder) {
    if (word === '') throw new Error('expected a path');
    return resolve(folder, word);
  },
};

/** A hub id or another name; what ends as a data file does is none. */
const hubName = /^[a-z\d][\w.-]*(\/[a-z\d][\w.-]*)?(?<!\.(json|jsonl|parquet))$/i;

/** The path that a word means, or the word itself where nothing lies there and `name` may be the hub's. (The loaders know `~`.) */
function pathUnlessName(word: string, folder: string, name = word): string {
  if (word === '') throw new Error('expected a path or a name');
  const local = resolve(folder, word);
  const isName = word === 'embedded' || word.startsWith('~') || (hubName.test(name) && !existsSync(local));
  return isName ? word : local;
}

/** A path, or a name (embedded, a hub id), which is left as it is. */
export const pathOrName: Kind<string> = {
  label: '<path or name>',
  freeText: true,
  parse: (word, folder) => pathUnlessName(word, folder),
};

/** Paths and names of datasets, separated by commas: in one string, without spaces. The hub itself writes `datasets/org/name`. */
export const pathsOrNames: Kind<string> = {
  label: '<path or name,...>',
  freeText: true,
  parse(typed, folder) {
    const words = typed.split(',').map((word) => word.trim());
    return words.map((word) => pathUnlessName(word, folder, word.replace(/^datasets\//, ''))).join(',');
  },
};

/** A checkpoint's path; `true`, `latest` or no value for the newest; `false` for none. */
export const checkpoint: Kind<string | null> = {
  label: '[<path>|latest]',
  freeText: true,
  bare: 'latest',
  parse(word, folder) {
    if (word.toLowerCase() === 'latest') return 'latest';
    const value = truth.get(word.toLowerCase());
    return value === undefined ? path.parse(word, folder) : value ? 'latest' : null;
  },
};

/** The same, for an option whose default is null (not given). */
export function orNull<T>(kind: Kind<T>): Kind<T | null> {
  return kind;
}
