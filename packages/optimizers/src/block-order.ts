import { didYouMean } from '@blockwise/errors';
import { hash } from './hash.ts';

/** Every value of switchMode. */
export const switchModes = ['random', 'ascending', 'descending', 'fixed'] as const;
export type SwitchMode = (typeof switchModes)[number];

/** Which blocks are trained in which order. */
export interface BlockOrderOptions {
  /**
   * random (default): a fresh permutation of all blocks each block-epoch, the paper's choice; ascending or descending: round and round
   * by index; fixed: one block only.
   */
  switchMode?: SwitchMode;
  /** Index of the first block. Default: descending starts at the last, ascending and fixed at 0, random where its permutation does. */
  startBlock?: number;
  /** Of the permutations; default 0. */
  seed?: number;
  /** The indices to train, again and again, in place of the two above: to repeat a recorded run. */
  order?: readonly number[];
}

/** The block of each visit (0, 1, ...; a visit lasts K steps). */
export interface BlockOrder {
  /** Visits in one block-epoch. */
  readonly visitsPerEpoch: number;
  blockAt(visit: number): number;
}

/** The order over `blocks` blocks; a function of its arguments alone, so that a resumed run needs the visit's number and no more. */
export function blockOrder(blocks: number, options: BlockOrderOptions): BlockOrder {
  const { switchMode = 'random', seed = 0, order } = options;
  const start = options.startBlock ?? (switchMode === 'descending' ? blocks - 1 : 0);
  if (order) return { visitsPerEpoch: order.length, blockAt: (visit) => order[visit % order.length] };
  if (switchMode === 'fixed') return { visitsPerEpoch: 1, blockAt: () => start };
  if (switchMode === 'ascending') return { visitsPerEpoch: blocks, blockAt: (visit) => (start + visit) % blocks };
  if (switchMode === 'descending')
    return { visitsPerEpoch: blocks, blockAt: (visit) => (start + blocks - (visit % blocks)) % blocks };
  const ofEpoch = (epoch: number): number[] => {
    const all = permutation(blocks, seed, epoch);
    if (epoch > 0 || options.startBlock === undefined) return all;
    return [start, ...all.filter((block) => block !== start)];
  };
  return { visitsPerEpoch: blocks, blockAt: (visit) => ofEpoch(Math.floor(visit / blocks))[visit % blocks] };
}

/** 0 ... n-1 shuffled by Fisher and Yates, with random numbers made of (seed, epoch, position). */
function permutation(n: number, seed: number, epoch: number): number[] {
  const items = Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = Math.floor((hash(seed, epoch, i) / 2 ** 32) * (i + 1));
    [items[i], items[j]] = [items[j], items[i]];
  }
  return items;
}

/** What is wrong with the options for `blocks` blocks (undefined: not known, because the blocks themselves are wrong). */
export function blockOrderProblems(blocks: number | undefined, options: BlockOrderOptions): string[] {
  const { switchMode = 'random', startBlock, seed = 0, order } = options;
  const problems: string[] = [];
  if (!(switchModes as readonly string[]).includes(switchMode))
    problems.push(
      `switchMode is ${switchMode}${didYouMean(switchMode, switchModes)}: expected ${switchModes.join(', ')}`,
    );
  if (!Number.isSafeInteger(seed) || seed < 0) problems.push(`seed is ${seed}, expected a non-negative integer`);
  const isBlock = (index: number) => Number.isInteger(index) && index >= 0 && index < (blocks ?? Infinity);
  const range = blocks === undefined ? 'a non-negative integer' : `0 to ${blocks - 1}, there being ${blocks} blocks`;
  if (startBlock !== undefined && !isBlock(startBlock)) problems.push(`startBlock is ${startBlock}, expected ${range}`);
  if (order?.length === 0) problems.push('order is empty, expected at least one block');
  const wrong = order?.filter((index) => !isBlock(index)) ?? [];
  if (wrong.length > 0) problems.push(`order contains ${wrong.join(', ')}, expected ${range}`);
  return problems;
}
