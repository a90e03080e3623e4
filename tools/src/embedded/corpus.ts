import { createChoices } from './choices.ts';
import { factParagraph } from './facts.ts';
import { story } from './stories.ts';

/**
 * One document of the pretraining corpus: a tiny story, or one to three paragraphs of facts. (seed, index) alone decide it, so
 * the corpus is endless and any part of it can be made again.
 */
export function corpusDocument(seed: number, index: number): string {
  const c = createChoices(seed, index);
  if (c.chance(40)) return story(c);
  return Array.from({ length: c.between(1, 3) }, () => factParagraph(c)).join('\n\n');
}

/** Documents `from` to `from + count - 1`. */
export function corpus(seed: number, count: number, from = 0): string[] {
  return Array.from({ length: count }, (_, i) => corpusDocument(seed, from + i));
}
