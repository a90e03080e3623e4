export { loadAdapter, saveAdapter } from './adapter-files.ts';
export { loraDefaults, type LoraConfig } from './lora-config.ts';
export { applyLora, type Lora, type LoraModel } from './lora-model.ts';
export { mergeAndUnload } from './merge.ts';
export { quantizeModelNf4 } from './nf4-model.ts';
export { calibrate, type ActivationRanges, type ActivationScheme, type CalibrationBatch } from './activation-ranges.ts';
export { quantizationAware } from './quantization-aware.ts';
export { quantizeModel, type ModelQuantization } from './quantize-model.ts';
