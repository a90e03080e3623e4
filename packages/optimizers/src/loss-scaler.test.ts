import { UserError } from '@blockwise/errors';
import { initTensorFlow, tf } from '@blockwise/tensorflow';
import { beforeAll, describe, expect, test } from 'vitest';
import golden from './golden/loss-scaler.json' with { type: 'json' };
import { DynamicLossScaler } from './index.ts';

// golden/loss-scaler.json: made by `python tools/golden/lomo_trajectories.py`; versions and command stand in the file.

const camel = (name: string) => name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());

/** The official options in camelCase. */
const optionsOf = (options: object) => Object.fromEntries(Object.entries(options).map(([key, value]) => [camel(key), value as number])); // prettier-ignore

beforeAll(() => initTensorFlow());

describe("lomo-optim's DynamicLossScaler", () => {
  test.each(golden.cases.map((record, i) => [i, record] as const))(
    'case %i: the scale after each of 200 steps is equal, also when resumed at every step',
    (_, { options, overflows, scales }) => {
      expect(new Set(overflows).size).toBe(2);
      const scaler = new DynamicLossScaler(optionsOf(options));
      let resumed = scaler;
      overflows.forEach((overflow, step) => {
        const next = new DynamicLossScaler(optionsOf(options));
        expect(next.restore(JSON.parse(JSON.stringify(resumed.state())))).toEqual([]);
        resumed = next;
        for (const each of [scaler, resumed]) {
          each.update(overflow === 1);
          expect(each.scale).toBe(scales[step]);
        }
      });
      expect(scales.some((scale, step) => scale > (scales[step - 1] ?? Infinity))).toBe(true);
    },
  );
});

test('gradients get the range and precision of float16 at the present scale', () => {
  const scaler = new DynamicLossScaler({ initScale: 1024 });
  const gradient = tf.tensor1d([0, 1 / 3, 1e-9, 2 ** -34, 63, 64, -65]);
  const rounded = scaler.throughFloat16(gradient);
  // 1/3 * 1024 has 11 significant bits; 2^-24 is float16's least number and 65504 its largest.
  const third = Math.round((1024 / 3) * 4) / 4 / 1024;
  expect([...rounded.dataSync()]).toEqual([0, third, Math.round((1e-9 * 1024) / 2 ** -24) * 2 ** -34, 2 ** -34, 63, Infinity, -Infinity]); // prettier-ignore
  tf.dispose([gradient, rounded]);
});

test('an overflow at the minimum scale is an error that says what to do', () => {
  const scaler = new DynamicLossScaler({ initScale: 2 });
  scaler.update(true);
  expect(() => scaler.update(true)).toThrow(
    new UserError(
      'float16 gradients overflow although the loss scale is at its minimum of 1: training stopped. Use a lower learning rate, or bfloat16 weights, which need no loss scale',
    ),
  );
});

test('options out of range and foreign states are refused, all at once', () => {
  expect(() => new DynamicLossScaler({ initScale: 0, scaleFactor: 1, scaleWindow: 0.5, delayedShift: 0 })).toThrow(
    new UserError(
      "the loss scale's options: 4 problems\n  - initScale is 0, expected a positive number\n  - scaleFactor is 1, expected a number above 1\n  - scaleWindow is 0.5, expected an integer from 1\n  - delayedShift is 0, expected an integer from 1",
    ),
  );
  const scaler = new DynamicLossScaler({ initScale: 8 });
  expect(scaler.restore(undefined)).toEqual(['it has no loss scale']);
  expect(scaler.restore({ scale: 'x', step: 1, lastOverflow: -1 })).toEqual([
    'lossScale.scale is "x", not a number',
    'lossScale.hysteresis is undefined, not a number',
  ]);
  expect(scaler.scale).toBe(8);
});
