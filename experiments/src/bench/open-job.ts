import { freshLlama, openLlama, type Llama } from '@blockwise/model-zoo';
import { adamW, BlockOptimizer, type Optimizer } from '@blockwise/optimizers';
import type { TrainJob } from './train-job.ts';

const learningRate = 1e-5;

/** The model of a job without a method, and its optimizer: AdamW of all parameters, or BAdam with AdamW on one layer throughout. */
export function openJobModel({ config, weights, dtype, computeDtype, block }: TrainJob): {
  model: Llama;
  optimizer: Optimizer;
} {
  const model =
    'folder' in weights
      ? openLlama(weights.folder, { dtype, streamed: weights.streamed, computeDtype }).model
      : freshLlama(config, { seed: weights.seed, dtype, computeDtype });
  const parameters = [...model.parameters.values()];
  const rule = adamW({ learningRate });
  if (block === null) return { model, optimizer: rule(parameters) };
  const fixed = { switchMode: 'fixed', startBlock: block, switchBlockEvery: 1_000_000 } as const;
  return { model, optimizer: new BlockOptimizer(rule, parameters, fixed) };
}
