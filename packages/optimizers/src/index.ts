export { adam8bit, adamW8bit, type Adam8bitOptions } from './adam8bit.ts';
export { adamMini, type AdamMiniNames, type AdamMiniOptions } from './adam-mini.ts';
export { adam, adamW, type AdamOptions } from './adamw.ts';
export {
  BlockOptimizerRatio,
  maskModes,
  type BlockOptimizerRatioOptions,
  type MaskMode,
} from './block-optimizer-ratio.ts';
export { BlockOptimizer, type BlockOptimizerOptions, type BlockVisit } from './block-optimizer.ts';
export { switchModes, type BlockOrderOptions, type SwitchMode } from './block-order.ts';
export { adaLomo, type AdaLomoOptions } from './ada-lomo.ts';
export { galore, galoreProjTypes, type GaloreOptions, type GaloreProjType } from './galore.ts';
export { lomo, type LomoOptions } from './lomo.ts';
export { DynamicLossScaler, type LossScaleOptions } from './loss-scaler.ts';
export { optimizerGroups, type OptimizerGroup } from './optimizer-groups.ts';
export type {
  JsonObject,
  JsonValue,
  Optimizer,
  OptimizerFactory,
  OptimizerState,
  Projection,
  StateTensor,
} from './optimizer.ts';
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
