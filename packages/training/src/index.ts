export {
  checkCheckpoint,
  isCheckpoint,
  latestCheckpoint,
  loadCheckpoint,
  saveCheckpoint,
  type Fingerprint,
} from './checkpoint.ts';
export { clipCoefficient, clipGradient, sumOfSquares } from './gradient-clipping.ts';
export { createMicroBatch, disposeMicroBatch, predictingRows, type MicroBatch } from './micro-batch.ts';
export { planMemory, type MemoryPlan, type MemoryPlanInput, type PlannedMemory } from './plan-memory.ts';
export { learningRateFactor, schedulerTypes, type SchedulerType } from './schedulers.ts';
export type { Gradient } from './open-gradients.ts';
export { StageWalk, type StageWalkOptions, type WalkTiming } from './stage-walk.ts';
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
