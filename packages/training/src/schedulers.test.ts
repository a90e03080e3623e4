import { expect, it } from 'vitest';
import { learningRateFactor } from './schedulers.ts';

// transformers 4.57.6: [get_scheduler(name, SGD(lr=1), 2, 10) -> get_last_lr() at steps 0..10]
it.each([
  ['linear', [0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0]],
  ['constant_with_warmup', [0, 0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]],
  ['constant', [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]],
  [
    'cosine',
    [
      0, 0.5, 1, 0.961939766255643, 0.853553390593273, 0.691341716182545, 0.5, 0.308658283817455, 0.146446609406726,
      0.038060233744356, 0,
    ],
  ],
] as const)('%s follows transformers', (type, expected) => {
  expected.forEach((factor, step) => expect(learningRateFactor(type, step, 10, 2)).toBeCloseTo(factor, 12));
});
