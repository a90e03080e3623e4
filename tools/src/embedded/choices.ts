import { createRandom } from '@blockwise/loaders';

/** Seeded choices for the text generators. */
export interface Choices {
  /** An integer in [0, bound). */
  below(bound: number): number;
  /** An integer in [low, high]. */
  between(low: number, high: number): number;
  /** True with probability `percent` / 100. */
  chance(percent: number): boolean;
  /** One of the options. */
  pick<T>(options: readonly T[]): T;
  /** `count` different ones, in random order. */
  sample<T>(options: readonly T[], count: number): T[];
}

/** The choices of one document: (seed, stream) alone decide them, so documents can be made in any order. */
export function createChoices(seed: number, stream = 0): Choices {
  const random = createRandom(seed, stream);
  const pick = <T>(options: readonly T[]): T => options[random.below(options.length)];
  return {
    below: (bound) => random.below(bound),
    between: (low, high) => low + random.below(high - low + 1),
    chance: (percent) => random.below(100) < percent,
    pick,
    sample: (options, count) => {
      if (count > options.length) throw new RangeError(`internal: ${count} of ${options.length} options`);
      const left = [...options];
      return Array.from({ length: count }, () => left.splice(random.below(left.length), 1)[0]);
    },
  };
}
