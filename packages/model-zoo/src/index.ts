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
export { freshLlama, saveFreshLlama, type FreshOptions } from './fresh-weights.ts';
export { generate, streamGeneration } from './generation.ts';
export type { CachedDecoder, GeneratedToken, Generation, GenerationOptions } from './generation.ts';
export type { JsonObject } from './json-object.ts';
export { argmax, chooseToken, processLogits, softmax } from './sampling.ts';
export type { SamplingOptions } from './sampling.ts';
export { readSafetensorsHeader, writeSafetensors } from './safetensors.ts';
export type { SafetensorsEntry, SafetensorsHeader, WritableTensor } from './safetensors.ts';
export { matchWeights, openWeights, saveWeights } from './weights.ts';
export type { WeightEntry, Weights } from './weights.ts';
export {
  attention,
  embedding,
  linear,
  plainLinear,
  recordProducts,
  replayProducts,
  rmsNorm,
  rotary,
  swiglu,
} from './layers.ts';
export { createLlama, type Llama } from './llama.ts';
export { llamaDecoder, type LlamaCache } from './llama-decoder.ts';
export { openLlama, saveLlama, type OpenedLlama } from './llama-files.ts';
export { callStage, stageInputs } from './stage-call.ts';
export type { BatchLayout, Context, LinearLayer, Stage, StagedModel, StageWeights } from './stages.ts';
