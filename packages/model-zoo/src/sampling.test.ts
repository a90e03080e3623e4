import { readFileSync } from 'node:fs';

import { describe, expect, test } from 'vitest';

import { seededRandom } from './random.ts';
import {
  argmax,
  chooseToken,
  drawToken,
  keepTopK,
  keepTopP,
  penalizeRepetition,
  processLogits,
  softmax,
} from './sampling.ts';

interface Packed {
  float32: string;
}

/** tools/golden/sampling.py: transformers' own logits processors, as generate() builds them. */
const golden = JSON.parse(readFileSync(new URL('golden/sampling.json', import.meta.url), 'utf8')) as {
  ids: number[];
  rows: Record<string, Packed>;
  cases: { name: string; row: string; options: Record<string, number | boolean>; logits: Packed }[];
};

function unpack({ float32 }: Packed): Float32Array {
  return new Float32Array(Uint8Array.from(Buffer.from(float32, 'base64')).buffer);
}

const spread = unpack(golden.rows.spread!);

describe('processed logits equal those of transformers', () => {
  test.each(golden.cases.map((entry) => [entry.name, entry] as const))('%s', (_, { row, options, logits }) => {
    const {
      do_sample = true,
      temperature = 1,
      top_k = 0,
      top_p = 1,
      repetition_penalty = 1,
    } = options as Record<string, number>;
    const processed = processLogits(unpack(golden.rows[row]!), golden.ids, {
      temperature: do_sample ? temperature : 0,
      topK: top_k,
      topP: top_p,
      repetitionPenalty: repetition_penalty,
    });
    const expected = unpack(logits);
    expect(processed.map((logit) => (logit === -Infinity ? 1 : 0))).toEqual(
      expected.map((logit) => (logit === -Infinity ? 1 : 0)),
    );
    // One rounding of a division apart.
    processed.forEach((logit, id) => logit === expected[id] || expect(logit / expected[id]!).toBeCloseTo(1, 6));
  });

  test('and the order of the steps shows in the cases', () => {
    const kept = (logits: Float32Array): number[] => [...logits.keys()].filter((id) => logits[id] !== -Infinity);
    const expected = (name: string): number[] =>
      kept(unpack(golden.cases.find((entry) => entry.name === name)!.logits));
    const hot = keepTopP(spread, 0.7).map((logit) => logit / 2.5);
    expect(kept(hot)).not.toEqual(expected('temperature-top-p'));
    expect(kept(keepTopK(keepTopP(spread, 0.75), 6))).not.toEqual(expected('top-k-top-p'));
    const late = penalizeRepetition(
      processLogits(spread, [], { temperature: 1.8, topK: 12, topP: 0.9 }),
      golden.ids,
      1.4,
    );
    expect(kept(late)).not.toEqual(expected('all'));
  });

  test('and the logits given are left as they were', () => {
    const logits = spread.slice();
    processLogits(logits, golden.ids, { temperature: 0.5, topK: 3, topP: 0.5, repetitionPenalty: 2 });
    expect(logits).toEqual(spread);
  });
});

describe('choosing', () => {
  test('takes the first of the most likely tokens at temperature 0', () => {
    expect(argmax(Float32Array.of(1, 3, 2, 3))).toBe(1);
    expect(chooseToken(Float32Array.of(1, 3, 2.9), [1], seededRandom(0), { repetitionPenalty: 2 })).toBe(2);
  });

  test('draws tokens as often as their probability says', () => {
    const logits = Float32Array.from([0.1, 0.2, 0, 0.7].map(Math.log));
    const random = seededRandom(3);
    const counts = [0, 0, 0, 0];
    for (let i = 0; i < 20_000; i++) counts[drawToken(logits, random)]!++;
    expect(counts[2]).toBe(0);
    // Standard deviations of 42, 57 and 65 draws; 4 of them.
    expect(Math.abs(counts[0]! - 2000)).toBeLessThan(170);
    expect(Math.abs(counts[1]! - 4000)).toBeLessThan(227);
    expect(Math.abs(counts[3]! - 14000)).toBeLessThan(260);
  });

  test('never draws a token that was filtered out, at either end of the random numbers', () => {
    const logits = Float32Array.of(-Infinity, 1, 1, -Infinity);
    expect(drawToken(logits, () => 0)).toBe(1);
    expect(drawToken(logits, () => 1 - 2 ** -53)).toBe(2);
  });

  test('is the same for one seed and differs between seeds', () => {
    const draw = (seed: number): number[] => {
      const random = seededRandom(seed);
      return Array.from({ length: 20 }, () => chooseToken(spread, [], random, { temperature: 1.5 }));
    };
    expect(draw(1)).toEqual(draw(1));
    expect(draw(1)).not.toEqual(draw(2));
  });
});

describe('broken logits', () => {
  test('are refused with the token', () => {
    expect(() => argmax(Float32Array.of(0, NaN))).toThrow(
      "the logit of token 1 is not a number: the model's weights hold NaN",
    );
    expect(() => softmax(Float32Array.of(0, Infinity))).toThrow(
      "the largest logit is Infinity: the model's weights have overflowed",
    );
  });
});
