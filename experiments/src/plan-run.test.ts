import { initTensorFlow } from '@blockwise/tensorflow';
import { expect, it } from 'vitest';
import { embedded } from './embedded.ts';
import { resolveOptions } from './options.ts';
import { planRun } from './plan-run.ts';

it('samples and evaluation count where they are asked for: 14 to 37 MB more were measured with both', async () => {
  await initTensorFlow();
  const peakOf = async (given: Parameters<typeof resolveOptions>[0]) => {
    const options = resolveOptions(given);
    return (await planRun({ options, folder: embedded.model, length: 32, baseBytes: 0 })).peak;
  };
  const [both, bare] = [await peakOf({}), await peakOf({ doPredict: false, evaluationStrategy: 'no' })];
  expect(both - bare).toBeGreaterThan(14e6);
  expect(both - bare).toBeLessThan(37e6);
});
