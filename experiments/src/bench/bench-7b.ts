/** `npx nx run experiments:bench-7b`: see large-model.ts. */
import { llama2_7b } from '@blockwise/model-zoo';
import { benchLargeModel } from './large-model.ts';

await benchLargeModel({
  name: 'bench-7b',
  title: 'Llama-2-7B shape: memory and seconds of a BAdam step',
  config: llama2_7b,
  lengths: [128, 728],
});
