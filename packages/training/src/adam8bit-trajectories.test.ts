import { adam8bit, adamW8bit } from '@blockwise/optimizers';
import { initTensorFlow, liveTensors } from '@blockwise/tensorflow';
import { beforeAll, describe, expect, it } from 'vitest';
import { hasData } from './stories-data.test-support.ts';
import { largestRelative, readGolden, storiesLosses } from './stories-run.test-support.ts';

/** 40 steps of bitsandbytes' Adam8bit and AdamW8bit on stories260K, made by tools/golden/adam8bit.py; versions inside. */
interface Case {
  name: string;
  optimizer: 'Adam8bit' | 'AdamW8bit';
  options: { lr: number; weight_decay?: number };
  losses: number[];
  noise: { losses: number };
}
const { cases } = readGolden<{ cases: Case[] }>('adam8bit-trajectories.json');

beforeAll(() => initTensorFlow());

describe.skipIf(!hasData)('8-bit Adam on stories260K and Alpaca-GPT4', () => {
  it('the golden file has all cases', () => expect(cases.length).toBe(2));

  it.each(cases)("$name: 40 losses equal bitsandbytes'", async ({ name, optimizer, options, losses, noise }) => {
    const before = liveTensors();
    const factory = { Adam8bit: adam8bit, AdamW8bit: adamW8bit }[optimizer];
    const found = await storiesLosses(factory({ weightDecay: options.weight_decay }), options.lr);
    expect(liveTensors()).toBe(before);
    const error = largestRelative(found, losses);
    console.log(`${name}: largest relative error ${error.toExponential(2)}, noise ${noise.losses}`);
    expect(error).toBeLessThan(Math.max(1e-4, 10 * noise.losses));
  });
});
