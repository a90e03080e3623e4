export { adam, adamW, type AdamOptions } from './adamw.ts';
export { BlockOptimizer, type BlockOptimizerOptions, type BlockVisit } from './block-optimizer.ts';
export { switchModes, type BlockOrderOptions, type SwitchMode } from './block-order.ts';
export type { JsonObject, JsonValue, Optimizer, OptimizerFactory, OptimizerState, StateTensor } from './optimizer.ts';
export {
  partitionByAttentionMlp,
  partitionByLayer,
  partitionByMatrix,
  planBlocks,
  type Block,
  type PartitionOptions,
} from './partition.ts';
export { sgd, type SgdOptions } from './sgd.ts';
export { switchBlockEvery } from './switch-block-every.ts';
export { isNormOrBias, type WeightDecayOptions } from './weight-decay.ts';
