export { gradientTerms, type GradientTerm } from './gradient-factors.ts';
export {
  llama_110m,
  llama_1_1b,
  llama_defaults,
  llama2_7b,
  llama3_1_8b,
  llama3_8b,
  llamaLayerShapes,
  llamaTiedWeights,
  llamaWeightShapes,
  parameterCount,
} from './config.ts';
export type { LlamaConfig, ParameterCount, RopeParameters, WeightDtype } from './config.ts';
export { llamaConfigJson, parseLlamaConfig, readLlamaConfig, writeConfig } from './config-file.ts';
export type { LlamaConfigFile } from './config-file.ts';
export { freshLlama, saveFreshLlama, saveHollowLlama, type FreshOptions } from './fresh-weights.ts';
export { generate, streamGeneration } from './generation.ts';
export type { CachedDecoder, GeneratedToken, Generation, GenerationOptions } from './generation.ts';
export { writeFileAside, writeFolderAside } from './atomic-file.ts';
export { readJsonObject, type JsonObject } from './json-object.ts';
export { argmax, chooseToken, processLogits, softmax } from './sampling.ts';
export type { SamplingOptions } from './sampling.ts';
export {
  bitNetFromLlama,
  freshBitNet,
  openBitNet,
  packBitNet,
  saveHollowBitNet,
  type OpenedBitNet,
} from './bitnet-files.ts';
export { bitLinear, createBitNet, type BitNet } from './bitnet.ts';
export {
  bitnet_defaults,
  bitnetConfigJson,
  bitnetWeightShapes,
  parseBitNetConfig,
  readBitNetConfig,
  type BitNetConfigFile,
  type BitNetStorage,
} from './bitnet-config.ts';
export { readSafetensorsHeader, writeSafetensors } from './safetensors.ts';
export type { SafetensorsEntry, SafetensorsHeader, WritableTensor } from './safetensors.ts';
export { matchWeights, openWeights, saveWeights } from './weights.ts';
export type { WeightEntry, Weights } from './weights.ts';
export {
  attention,
  bfloat16Linear,
  embedding,
  frozenLinear,
  linear,
  plainLinear,
  recordProducts,
  replayProducts,
  rmsNorm,
  rotary,
  swiglu,
  unrecorded,
  type FrozenWeight,
} from './layers.ts';
export { linearShapes } from './linear-shapes.ts';
export { createLlama, type ComputeDtype, type Llama } from './llama.ts';
export { llamaDecoder, type LlamaCache } from './llama-decoder.ts';
export { openLlama, saveLlama, type OpenedLlama } from './llama-files.ts';
export { callStage, stageInputs, type WeightCopies } from './stage-call.ts';
export { replaceWeights, stageWeights, storedWeight, weightAtRest } from './stage-weights.ts';
export type { BatchLayout, Context, LinearLayer, Stage, StagedModel, StageWeights } from './stages.ts';
