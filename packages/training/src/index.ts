export { isCheckpoint, latestCheckpoint, loadCheckpoint, saveCheckpoint, type Fingerprint } from './checkpoint.ts';
export { UserError } from './user-error.ts';
export { clipGradientNorm, gradientNorm } from './gradient-norm.ts';
export { createMicroBatch, disposeMicroBatch, predictingRows, type MicroBatch } from './micro-batch.ts';
export { planMemory, type MemoryPlan, type MemoryPlanInput } from './plan-memory.ts';
export { learningRateFactor, schedulerTypes, type SchedulerType } from './schedulers.ts';
export { StageWalk, type StageWalkOptions, type Gradient, type WalkTiming } from './stage-walk.ts';
export {
  evaluateLoss,
  stepsPerEpoch,
  train,
  type StepRecord,
  type TrainOptions,
  type TrainParts,
  type TrainResult,
  type TrainState,
  type ValidationRecord,
} from './train.ts';
