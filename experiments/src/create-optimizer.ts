import {
  adamW,
  BlockOptimizer,
  isNormOrBias,
  partitionByAttentionMlp,
  partitionByLayer,
  partitionByMatrix,
  planBlocks,
  sgd,
  switchBlockEvery,
  type Optimizer,
  type OptimizerFactory,
} from '@blockwise/optimizers';
import type { Parameter } from '@blockwise/tensorflow';
import type { Options } from './options.ts';

const partitions = { layer: partitionByLayer, attention_mlp: partitionByAttentionMlp, matrix: partitionByMatrix };

/** The optimizer that the options ask for, its block optimizer where there is one, and what it was resolved to. */
export interface ChosenOptimizer {
  optimizer: Optimizer;
  blocks: BlockOptimizer | undefined;
  /** Steps per block; undefined without blocks. */
  switchBlockEvery: number | undefined;
  /** Elements trained at a time, at most. */
  trainedElements: number;
  /** Bytes of states per trained element. */
  stateBytes: number;
}

/**
 * Makes it over all parameters. `auto` for switch_block_every is n / (B D) clipped to [50, 100] (BAdam, table 10), with n training
 * examples, an effective batch of B and D blocks.
 */
export function createOptimizer(
  options: Options,
  parameters: readonly Parameter[],
  trainExamples: number,
  log: (line: string) => void,
): ChosenOptimizer {
  const base = baseOptimizer(options);
  const stateBytes = options.optim === 'adamw' ? 8 : 0;
  const size = new Map(parameters.map((parameter) => [parameter.name, parameter.elements]));
  const elements = (names: readonly string[]) => names.reduce((sum, name) => sum + size.get(name)!, 0);
  if (options.finetuningType === 'full') {
    const trainedElements = elements([...size.keys()]);
    return { optimizer: base(parameters), blocks: undefined, switchBlockEvery: undefined, trainedElements, stateBytes };
  }
  const names = [...size.keys()];
  const partition = {
    blockPrefixList: partitions[options.blockPartition](names),
    includeEmbedding: options.includeEmbedding,
    includeLmHead: options.includeLmHead,
  };
  const planned = planBlocks(names, partition).blocks;
  const batch = options.perDeviceTrainBatchSize * options.gradientAccumulationSteps;
  const every =
    options.switchBlockEvery === 'auto'
      ? switchBlockEvery(trainExamples, batch, planned.length)
      : options.switchBlockEvery;
  const blocks = new BlockOptimizer(base, parameters, {
    ...partition,
    switchBlockEvery: every,
    switchMode: options.switchMode,
    ...(options.startBlock === null ? {} : { startBlock: options.startBlock }),
    seed: options.seed,
    ...(options.stochasticRounding ? { rounding: { mode: 'stochastic', seed: options.seed } } : {}),
    ...(options.compat === 'official' ? { compat: 'official' } : {}),
    log,
  });
  const trainedElements = Math.max(...blocks.blocks.map((block) => elements(block.names)));
  return { optimizer: blocks, blocks, switchBlockEvery: every, trainedElements, stateBytes };
}

function baseOptimizer(options: Options): OptimizerFactory {
  const { learningRate, weightDecay, adamBeta1, adamBeta2, adamEpsilon } = options;
  const shared = { learningRate, weightDecay, noDecay: isNormOrBias };
  if (options.optim === 'sgd') return sgd(shared);
  return adamW({ ...shared, betas: [adamBeta1, adamBeta2], eps: adamEpsilon });
}
