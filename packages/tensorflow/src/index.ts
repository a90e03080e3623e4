export * as tf from '@tensorflow/tfjs-core';
export { attribute, type Attribute } from './attributes.ts';
export { compile, type CompiledFunction } from './compile.ts';
export { dtypes, elementCount, type DType } from './dtypes.ts';
export { replaceEntries, takeColumns, takeEntries, type Entries, type Stretch } from './entries.ts';
export { OutOfMemoryError, TensorFlowError, TensorUseError } from './errors.ts';
export { describeEngine, initTensorFlow, liveTensors, type TensorFlowOptions } from './init.ts';
export { MappedFile } from './mapped-file.ts';
export {
  MemoryMeter,
  readGpuMemory,
  readMemory,
  resetPeakMemory,
  type MemoryPeaks,
  type MemoryReading,
} from './memory.ts';
export {
  allFinite,
  batchMatMul,
  batchMatMulBfloat16,
  bfloat16Arithmetic,
  addRowsInPlace,
  columnSums,
  float32Arithmetic,
  hasBfloat16Products,
  isFasterInTerms,
  matMul2d,
  matMulBfloat16,
  multiplyFactors,
  operation,
  productInTerms,
  sparseSoftmaxCrossEntropy,
  statelessRandom,
  timesTransposed,
  type Arithmetic,
} from './operations.ts';
export { Parameter, totalBytes } from './parameter.ts';
export {
  provisionTensorFlow,
  type ProvisionOptions,
  type TensorFlowLibrary,
} from './provision/provision-tensorflow.ts';
export type { ProvisionProgress } from './provision/provision-progress.ts';
export type { TensorFlowVariant } from './provision/tensorflow-lock.ts';
export {
  byteLengthOf,
  cast,
  castAfter,
  concatRows,
  gatherRows,
  RawTensor,
  share,
  sliceRows,
  takeFloat32,
  takeRaw,
  toRaw,
  type AnyTensor,
  type Rounding,
  type Streaming,
} from './raw-tensor.ts';
export { isRehearsal } from './current-runtime.ts';
export { rehearse, type RehearsedMemory } from './rehearsal/rehearsal.ts';
export { Variable, type AdamScalars } from './variable.ts';
