import { createRandom } from '@blockwise/loaders';
import { expect, test } from 'vitest';
import { paddedBatch, randomBatch } from './train-job.ts';

test('paddedBatch pads each row on the right to the longest, and nothing is learnt there', () => {
  const example = (ids: number[], labels: number[]) => ({
    inputIds: Int32Array.from(ids),
    labels: Int32Array.from(labels),
  });
  expect(paddedBatch([example([5, 6, 7], [-100, 6, 7]), example([8], [8])], 2)).toEqual({
    inputIds: [5, 6, 7, 8, 2, 2],
    labels: [-100, 6, 7, 8, -100, -100],
    positionIds: [0, 1, 2, 0, 1, 2],
    segmentIds: null,
    batchSize: 2,
    length: 3,
    rowTokens: [3, 1],
  });
});

test('randomBatch predicts every token, all of them in the vocabulary', () => {
  const { inputIds, labels, rowTokens } = randomBatch(10, 3, 40, createRandom(1));
  expect(labels).toEqual(inputIds);
  expect(rowTokens).toEqual([40, 40, 40]);
  expect(new Set(inputIds)).toEqual(new Set([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]));
});
