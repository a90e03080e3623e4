import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { createBatches } from './batches.ts';
import type { Batch, BatchOptions } from './batches.ts';
import { bucketLengths } from './bucket-lengths.ts';
import { epochOrder } from './epoch-order.ts';
import { ignoreIndex } from './examples.ts';
import type { Example } from './examples.ts';
import { packExamples } from './packing.ts';
import { createRandom } from './random.ts';
import { readGolden } from './test-data.ts';

/** Example i of a length: ids 1000 i + 1, 1000 i + 2, ...; the first third is a masked prompt. */
function makeExample(i: number, length: number): Example {
  const inputIds = Int32Array.from({ length }, (_, t) => 1000 * i + t + 1);
  return { inputIds, labels: inputIds.map((id, t) => (t < Math.floor(length / 3) ? ignoreIndex : id)) };
}

const random = createRandom(11);
const lengths = Array.from({ length: 103 }, () => 3 + random.below(random.below(2) === 0 ? 40 : 250));
const examples = lengths.map((length, i) => makeExample(i, length));
const options: BatchOptions = { batchSize: 4, padId: 999_999, shuffle: true, seed: 3 };

const indices = (batches: Iterable<Batch>): number[] => [...batches].flatMap(({ exampleIndices }) => exampleIndices);
const ascending = (values: readonly number[]): number[] => [...values].sort((a, b) => a - b);
const all = examples.map((_, i) => i);
/** Everything in a batch, as a short string. */
const digest = (batch: Batch): string => createHash('sha256').update(JSON.stringify(batch)).digest('hex');

describe('a padded batch', () => {
  it('holds its examples on the left, padding on the right, positions from 0, labels unshifted', () => {
    const three = [makeExample(0, 3), makeExample(1, 5)];
    const batch = createBatches(three, { batchSize: 2, padId: 7, cutoffLen: 5 }).next();
    expect(batch).toEqual({
      inputIds: Int32Array.from([1, 2, 3, 7, 7, 1001, 1002, 1003, 1004, 1005]),
      labels: Int32Array.from([-100, 2, 3, -100, -100, -100, 1002, 1003, 1004, 1005]),
      positionIds: Int32Array.from([0, 1, 2, 0, 0, 0, 1, 2, 3, 4]),
      segmentIds: undefined,
      batchSize: 2,
      length: 5,
      tokens: 8,
      labelTokens: 6,
      exampleIndices: [0, 1],
    });
  });

  it('does not count a label at the first position, which nothing predicts', () => {
    const inputIds = Int32Array.from([1, 2, 3]);
    expect(createBatches([{ inputIds, labels: inputIds }], { batchSize: 1, padId: 0 }).next().labelTokens).toBe(2);
  });
});

describe('an epoch', () => {
  for (const change of [
    {},
    { groupByLength: true },
    { shuffle: false },
    { packing: 'packed', cutoffLen: 256 },
  ] as const) {
    it(`visits every example once, every token intact: ${JSON.stringify(change)}`, () => {
      const source = createBatches(examples, { ...options, ...change });
      const batches = [...source.epochBatches(0)];
      expect(batches).toHaveLength(source.batchesPerEpoch);
      expect(ascending(indices(batches))).toEqual(all);
      for (const batch of batches) {
        expect(batch.inputIds).toHaveLength(batch.batchSize * batch.length);
        expect(batch.tokens).toBe(batch.exampleIndices.reduce((sum, i) => sum + lengths[i]!, 0));
        const present = [...batch.inputIds].filter((id) => id !== options.padId);
        expect(present).toEqual(batch.exampleIndices.flatMap((i) => [...examples[i]!.inputIds]));
        expect(batch.labelTokens).toBe([...batch.labels].filter((label) => label !== ignoreIndex).length);
        expect(source.lengths).toContain(batch.length);
      }
    });
  }

  it('is ordered by (seed, epoch): the same again, another for another epoch or seed, in order without shuffling', () => {
    const source = createBatches(examples, options);
    const first = indices(source.epochBatches(0));
    expect(indices(createBatches(examples, options).epochBatches(0))).toEqual(first);
    expect(indices(source.epochBatches(1))).not.toEqual(first);
    expect(indices(createBatches(examples, { ...options, seed: 4 }).epochBatches(0))).not.toEqual(first);
    expect(indices(createBatches(examples, { ...options, shuffle: false }).epochBatches(5))).toEqual(all);
  });

  it('keeps or drops its last, smaller batch', () => {
    const sizes = [...createBatches(examples, options).epochBatches()].map(({ batchSize }) => batchSize);
    expect(sizes).toEqual([...new Array<number>(25).fill(4), 3]);
    const dropping = createBatches(examples, { ...options, dropLast: true });
    expect([...dropping.epochBatches()].every(({ batchSize }) => batchSize === 4)).toBe(true);
    expect(dropping.batchesPerEpoch).toBe(25);
  });
});

describe('next, state and restore', () => {
  it('run on over epochs, and go on from any saved state as if never interrupted', () => {
    for (const change of [{}, { groupByLength: true }, { packing: 'packed' as const, cutoffLen: 256 }]) {
      const source = createBatches(examples, { ...options, ...change });
      const states = [];
      const batches = [];
      for (let i = 0; i < 2 * source.batchesPerEpoch + 3; i++) {
        states.push(source.state());
        batches.push(source.next());
      }
      expect(states[source.batchesPerEpoch]).toEqual({ epoch: 1, position: 0 });
      expect(indices(batches.slice(source.batchesPerEpoch, 2 * source.batchesPerEpoch))).toEqual(
        indices(source.epochBatches(1)),
      );
      for (const at of [0, 1, source.batchesPerEpoch - 1, source.batchesPerEpoch, 2 * source.batchesPerEpoch + 1]) {
        const resumed = createBatches(examples, { ...options, ...change });
        resumed.restore(JSON.parse(JSON.stringify(states[at])));
        expect(batches.slice(at).map(() => digest(resumed.next()))).toEqual(batches.slice(at).map(digest));
      }
    }
  });

  it('refuses a state of another source', () => {
    const source = createBatches(examples, options);
    for (const state of [
      { epoch: 0, position: 26 },
      { epoch: -1, position: 0 },
      { epoch: 0.5, position: 0 },
    ]) {
      expect(() => source.restore(state)).toThrow(
        `resume: the data position is epoch ${state.epoch}, batch ${state.position}, but an epoch has 26 batches here; resume with the dataset`,
      );
    }
    expect(source.state()).toEqual({ epoch: 0, position: 0 });
  });
});

describe('packed rows', () => {
  it('number their examples from 1, restart positions, and mask each first label', () => {
    const batch = createBatches([makeExample(0, 4), makeExample(1, 3), makeExample(2, 2)], {
      batchSize: 2,
      padId: 9,
      packing: 'packed',
      cutoffLen: 8,
    }).next();
    // 4 + 3 fill 7 of 8; 2 has a row of its own. Example 2 has no prompt, so only packing masks its first label.
    expect(batch).toEqual({
      inputIds: Int32Array.from([1, 2, 3, 4, 1001, 1002, 1003, 9, 2001, 2002, 9, 9, 9, 9, 9, 9]),
      labels: Int32Array.from([-100, 2, 3, 4, -100, 1002, 1003, -100, -100, 2002, ...new Array<number>(6).fill(-100)]),
      positionIds: Int32Array.from([0, 1, 2, 3, 0, 1, 2, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
      segmentIds: Int32Array.from([1, 1, 1, 1, 2, 2, 2, 0, 1, 1, 0, 0, 0, 0, 0, 0]),
      batchSize: 2,
      length: 8,
      tokens: 9,
      labelTokens: 6,
      exampleIndices: [0, 1, 2],
    });
  });

  it("are those of LLaMA-Factory's greedy_knapsack", () => {
    const { packing } = readGolden<{ packing: { lengths: number[]; capacity: number; rows: number[][] } }>(
      'llamafactory.json',
    );
    const rows = packExamples(packing.lengths, packing.capacity, packing.lengths.keys());
    expect(rows.map((row) => row.map((i) => packing.lengths[i]))).toEqual(packing.rows);
  });
});

describe('grouping by length', () => {
  it('follows transformers: shuffled megabatches, longest first in each, the longest of all first', () => {
    const epoch = { epoch: 2, seed: 9, stepSize: 4, shuffle: true, groupByLength: true };
    const order = [...epochOrder(lengths, epoch)];
    // The definition, from the same shuffled order: min(103 / (4 x 4), 50) = 6 batches of 4 make a megabatch.
    const shuffled = [...epochOrder(lengths, { ...epoch, groupByLength: false })];
    const megabatches = Array.from({ length: Math.ceil(103 / 24) }, (_, i) =>
      shuffled.slice(24 * i, 24 * (i + 1)).sort((a, b) => lengths[b]! - lengths[a]!),
    );
    const maxima = megabatches.map(([first]) => lengths[first!]!);
    const longest = maxima.indexOf(Math.max(...maxima));
    [megabatches[0]![0], megabatches[longest]![0]] = [megabatches[longest]![0]!, megabatches[0]![0]!];
    expect(order).toEqual(megabatches.flat());
    expect(lengths[order[0]!]).toBe(Math.max(...lengths));
  });

  it('takes all batches of a step together', () => {
    const orderOf = (more: Partial<BatchOptions>) => {
      const source = createBatches(examples, { ...options, groupByLength: true, ...more });
      return [...source.epochBatches(1)].flatMap(({ exampleIndices }) => exampleIndices);
    };
    const parts = orderOf({ batchSize: 2, gradientAccumulationSteps: 8 });
    expect(parts).toEqual(orderOf({ batchSize: 16 }));
    expect(parts).not.toEqual(orderOf({ batchSize: 2 }));
  });

  it('without shuffling goes from the longest to the shortest', () => {
    const order = epochOrder(lengths, { epoch: 0, seed: 0, stepSize: 4, shuffle: false, groupByLength: true });
    expect([...order].map((i) => lengths[i])).toEqual([...lengths].sort((a, b) => b - a));
  });

  it('pads less', () => {
    const slots = (groupByLength: boolean) =>
      [...createBatches(examples, { ...options, groupByLength }).epochBatches()].reduce(
        (sum, b) => sum + b.inputIds.length,
        0,
      );
    expect(slots(true)).toBeLessThan(0.8 * slots(false));
  });
});

describe('bucketLengths', () => {
  it('is the cheapest choice of all, found by trying every one', () => {
    const few = [3, 17, 20, 33, 40, 47, 70, 90, 90, 91, 130, 135];
    const candidates = [16, 32, 48, 80, 96, 144];
    for (const together of [1, 3]) {
      // Expected length of a batch whose longest of `together` draws decides.
      const cost = (buckets: number[]) =>
        buckets.reduce((sum, bucket, i) => {
          const below = (limit: number) => (few.filter((length) => length <= limit).length / few.length) ** together;
          return sum + bucket * (below(bucket) - below(buckets[i - 1] ?? 0));
        }, 0);
      for (const count of [1, 2, 3, 4, 6]) {
        const subsets = Array.from({ length: 2 ** 5 }, (_, bits) => [
          ...candidates.filter((_, i) => i < 5 && bits & (1 << i)),
          144,
        ]);
        const best = Math.min(...subsets.filter((subset) => subset.length <= count).map(cost));
        const found = bucketLengths(few, { count, together });
        expect(found.length).toBeLessThanOrEqual(count);
        expect(cost(found)).toBeCloseTo(best, 10);
      }
    }
  });

  it('never passes the cap, and holds the longest', () => {
    expect(bucketLengths([5, 100], { maxLength: 100 })).toEqual([16, 100]);
    expect(bucketLengths([1])).toEqual([16]);
    expect(bucketLengths(lengths).length).toBeLessThanOrEqual(6);
    expect(bucketLengths(lengths).at(-1)).toBeGreaterThanOrEqual(Math.max(...lengths));
  });
});

describe('createBatches refuses', () => {
  it('all wrong options in one error', () => {
    const refused = () => createBatches([], { batchSize: 0, padId: -1, seed: 0.5, cutoffLen: 1.5, bucketCount: 0 });
    expect(refused).toThrow('per_device_train_batch_size: found 0; expected a whole number, at least 1.');
    expect(refused).toThrow('cutoff_len: found 1.5; expected a whole number, at least 1.');
    expect(refused).toThrow('bucket_count: found 0; expected a whole number, at least 1.');
    expect(refused).toThrow('seed: found 0.5; expected a whole number, at least 0.');
    expect(refused).toThrow('pad_token_id: found -1; expected a whole number, at least 0.');
    expect(refused).toThrow('dataset: no example to make batches of.');
  });

  it('an example whose labels are fewer or more than its tokens', () => {
    for (const count of [2, 5]) {
      const uneven = { ...makeExample(1, 3), labels: new Int32Array(count) };
      expect(() => createBatches([makeExample(0, 4), uneven], { batchSize: 2, padId: 0 })).toThrow(
        `dataset: example 1 has 3 inputIds and ${count} labels; each token needs one label, -100 where nothing is learnt.`,
      );
    }
  });

  it('examples longer than the cutoff, and dropping the only batch', () => {
    const long = () => createBatches([makeExample(0, 9)], { batchSize: 1, padId: 0, cutoffLen: 8 });
    expect(long).toThrow('cutoff_len: example 0 has 9 tokens, more than 8; tokenise with this cutoff_len.');
    const dropping = () => createBatches([makeExample(0, 9)], { batchSize: 2, padId: 0, dropLast: true });
    expect(dropping).toThrow('dataloader_drop_last: 1 rows make no full batch of 2; lower the batch size.');
  });
});
