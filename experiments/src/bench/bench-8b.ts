/** `npx nx run experiments:bench-8b`: see large-model.ts. */
import { llama3_8b } from '@blockwise/model-zoo';
import { benchLargeModel } from './large-model.ts';

await benchLargeModel({
  name: 'bench-8b',
  title: 'Llama-3-8B shape: memory and seconds of a BAdam step',
  config: llama3_8b,
  lengths: [128],
});
