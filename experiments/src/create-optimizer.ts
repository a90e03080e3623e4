import { UserError } from '@blockwise/errors';
import { llamaLayerShapes, type LlamaConfig } from '@blockwise/model-zoo';
import {
  adam,
  adam8bit,
  adaLomo,
  adamMini,
  adamW,
  adamW8bit,
  BlockOptimizer,
  BlockOptimizerRatio,
  galore,
  isNormOrBias,
  lomo,
  optimizerGroups,
  partitionByAttentionMlp,
  partitionByLayer,
  partitionByMatrix,
  planBlocks,
  sgd,
  switchBlockEvery,
  type Optimizer,
  type OptimizerFactory,
} from '@blockwise/optimizers';
import type { TrainedModel } from './open-model.ts';
import type { Options } from './options.ts';

/** The optimizer that the options ask for, its block optimizer where there is one, and what it was resolved to. */
export interface ChosenOptimizer {
  optimizer: Optimizer;
  /** What it trains, for people. */
  training: string;
  blocks?: BlockOptimizer;
  /** Steps of a block's (sparse: a mask's) turn. */
  switchBlockEvery?: number;
}

/** Makes a method's optimizer over what it trains; `trainExamples` is the number of training examples. */
export type CreateOptimizer = (options: Options, trained: TrainedModel, trainExamples: number) => ChosenOptimizer;

/** What every factory is told. */
function shared({ learningRate, weightDecay, pureBf16, stochasticRounding, seed }: Options) {
  return {
    ...{ learningRate, weightDecay, noDecay: isNormOrBias },
    ...(pureBf16 ? { masters: 'transient' as const } : {}),
    ...(stochasticRounding ? { rounding: { mode: 'stochastic', seed } as const } : {}),
  };
}

function adamOptions(options: Options) {
  const { adamBeta1, adamBeta2, adamEpsilon } = options;
  return { ...shared(options), betas: [adamBeta1, adamBeta2] as const, eps: adamEpsilon };
}

/** A method's or --optim's rule, for a model of this configuration. */
type Factory = (options: Options, config: LlamaConfig) => OptimizerFactory;

/** --optim. */
const rules: Record<Options['optim'], Factory> = {
  adamw: (options) => adamW(adamOptions(options)),
  adam: (options) => adam(adamOptions(options)),
  sgd: (options) => {
    const { momentum, dampening, nesterov } = options;
    return sgd({ ...shared(options), momentum, dampening, nesterov });
  },
  adamw_8bit: (options) => adamW8bit(adamOptions(options)),
  adam_8bit: (options) => adam8bit(adamOptions(options)),
  adam_mini: (options, config) =>
    adamMini({
      ...adamOptions(options),
      ...{ dim: config.hidden_size, nHeads: config.num_attention_heads },
      ...{ nKvHeads: config.num_key_value_heads, headDim: config.head_dim },
    }),
};
const byOptim: Factory = (options, config) => rules[options.optim](options, config);

/** All of what the method trains, together. */
export const together =
  (factory: Factory = byOptim): CreateOptimizer =>
  (options, { model, parameters }) => {
    const elements = parameters.reduce((sum, parameter) => sum + parameter.elements, 0);
    return {
      optimizer: factory(options, model.config)(parameters),
      training: `${(elements / 1e6).toFixed(2)}M parameters together`,
    };
  };

/** LOMO, with loss scaling where weights are float16. */
export const lomoOf: Factory = (options) => lomo({ ...shared(options), ...lossScaling(options) });
/** AdaLomo, likewise. */
export const adaLomoOf: Factory = (options) => adaLomo({ ...shared(options), ...lossScaling(options) });
/** torch's first scale: from lomo-optim's, 2^32, a run loses its first dozen steps to overflows. */
const lossScaling = ({ fp16 }: Options) => (fp16 ? { lossScale: { initScale: 2 ** 16 } } : {});

/** GaLore over the weights that --galore_target names. @throws UserError for a part that no name has */
export const galoreOf: Factory = (options, config) => {
  const { galoreTarget: targets, galoreRank: rank, galoreUpdateInterval: updateProjGap } = options;
  const { galoreScale: scale, galoreProjType: projType, computeDtype } = options;
  const linear = [...llamaLayerShapes(config)].filter(([, { length }]) => length === 2).map(([name]) => name);
  const wrong = targets.filter((part) => part !== 'all' && !linear.some((name) => name.includes(part)));
  if (wrong.length > 0)
    throw new UserError(
      `--galore_target: no weight has ${wrong.join(', ')} in its name; give all, or parts of ${linear.join(', ')}`,
    );
  // As in LLaMA-Factory, a part of the name is enough: mlp is gate_proj, up_proj and down_proj.
  const wanted = targets.includes('all') ? linear : targets;
  const target = (name: string) =>
    linear.some((end) => name.endsWith(`.${end}`)) && wanted.some((part) => name.includes(part));
  return galore({ ...adamOptions(options), rank, updateProjGap, scale, projType, computeDtype, target });
};

const partitions = { layer: partitionByLayer, attention_mlp: partitionByAttentionMlp, matrix: partitionByMatrix };

/**
 * BAdam. `auto` for switch_block_every is n / (B D) clipped to [50, 100] (BAdam, table 10), with n training examples, an effective batch
 * of B and D blocks.
 */
export const blockwise: CreateOptimizer = (options, { model, parameters }, trainExamples) => {
  const names = parameters.map(({ name }) => name);
  const { includeEmbedding, includeLmHead } = options;
  const lists = { blockPrefixList: partitions[options.blockPartition](names), includeEmbedding, includeLmHead };
  const planned = planBlocks(names, lists).blocks;
  const inBlocks = new Set(planned.flatMap(({ names }) => names));
  // Beside adapters only modules that were asked for train at all: those of no block always do.
  const activeModules = options.additionalTarget ? names.filter((name) => !inBlocks.has(name)) : [];
  const partition = { ...lists, activeModules };
  const batch = options.perDeviceTrainBatchSize * options.gradientAccumulationSteps;
  const every =
    options.switchBlockEvery === 'auto'
      ? switchBlockEvery(trainExamples, batch, planned.length)
      : options.switchBlockEvery;
  const blocks = new BlockOptimizer(byOptim(options, model.config), parameters, {
    ...partition,
    switchBlockEvery: every,
    switchMode: options.switchMode,
    ...(options.startBlock === null ? {} : { startBlock: options.startBlock }),
    seed: options.seed,
    ...(options.stochasticRounding ? { rounding: { mode: 'stochastic', seed: options.seed } } : {}),
    ...(options.compat === 'official' ? { compat: 'official' } : {}),
  });
  const training = `BAdam over ${blocks.blocks.length} blocks, K = ${every} steps, ${options.switchMode}`;
  return { optimizer: blocks, training, blocks, switchBlockEvery: every };
};

/** Adapters: together, or block by block; with --lora_only false the weights beside them by LOMO. */
export const adapters: CreateOptimizer = (options, trained, trainExamples) => {
  if (options.loraOnly) return (options.useBadam ? blockwise : together())(options, trained, trainExamples);
  const { config } = trained.model;
  const lomoOptions = { ...options, learningRate: options.lomoLearningRate, weightDecay: 0 };
  const added = trained.parameters.filter(({ name }) => /\.lora_[AB]\./.test(name));
  const weights = trained.parameters.filter((parameter) => !added.includes(parameter));
  const optimizer = optimizerGroups([
    { parameters: added, factory: byOptim(options, config) },
    { parameters: weights, factory: lomoOf(lomoOptions, config) },
  ]);
  return { optimizer, training: 'adapters, and the weights beside them by LOMO' };
};

/** The official default of switch_every. */
const sparseTurn = 100;

/** BlockOptimizerRatio. */
export const sparse: CreateOptimizer = (options, { parameters }) => {
  const { updateRatio, maskMode, preserveThreshold, keepMask, includeEmbedding, includeLmHead, seed } = options;
  const switchEvery = options.switchBlockEvery === 'auto' ? sparseTurn : options.switchBlockEvery;
  const { learningRate, betas, eps, masters, rounding } = adamOptions(options);
  const optimizer = new BlockOptimizerRatio(parameters, {
    ...{ updateRatio, maskMode, preserveThreshold, keepMask, includeEmbedding, includeLmHead, switchEvery, seed },
    ...{ learningRate, betas, eps, masters, rounding },
  });
  const training = `${updateRatio} of each weight, ${maskMode}, K = ${switchEvery} steps`;
  return { optimizer, training, switchBlockEvery: switchEvery };
};
