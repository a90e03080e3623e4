import { UserError } from '@blockwise/errors';
import { createRandom, shuffle } from './random.ts';

/** Set aside from the epochs 0, 1, 2 ... of the same seed, so that the split and the first epoch share no numbers. */
const splitStream = 2 ** 52;

/** Items to train on, and those that are held out. */
export interface Split<T> {
  train: T[];
  validation: T[];
}

/**
 * Holds out a validation set, in the manner of LLaMA-Factory's `val_size` (src/llamafactory/data/data_utils.py,
 * `split_dataset`, commit ff6d4d1): a fraction in (0, 1) of the examples, rounded up as `datasets.train_test_split`
 * does, or a count. 0 holds out nothing. Which examples are held out depends on the seed, the size and their number
 * alone (our generator, not NumPy's: the sizes agree with LLaMA-Factory, the membership does not). Both parts keep
 * the order of the data.
 * @throws UserError when valSize is negative, fractional above 1, or leaves no example to train on.
 */
export function splitDataset<T>(examples: readonly T[], valSize: number, seed: number): Split<T> {
  const n = examples.length;
  if (!(valSize >= 0) || (valSize >= 1 && !Number.isInteger(valSize))) {
    throw new UserError(
      `val_size: found ${valSize}; expected 0 (no validation), a fraction in (0, 1) of the examples, or a whole number of them.`,
    );
  }
  const held = valSize < 1 ? Math.ceil(valSize * n) : valSize;
  if (held > 0 && held >= n) {
    throw new UserError(
      `val_size: ${valSize} holds out ${held} of ${n} examples, which leaves none to train on; choose a smaller val_size.`,
    );
  }
  const order = shuffle(
    Int32Array.from({ length: n }, (_, i) => i),
    createRandom(seed, splitStream),
  );
  const isHeld = new Uint8Array(n);
  for (const i of order.subarray(0, held)) isHeld[i] = 1;
  return { train: examples.filter((_, i) => !isHeld[i]), validation: examples.filter((_, i) => isHeld[i]) };
}
