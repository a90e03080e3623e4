import { planMemory, type PlannedMemory } from '@blockwise/training';
import { openJobModel } from './open-job.ts';
import type { Ready, Round, TrainJob } from './train-job.ts';

/** A peak as planned and as measured. */
export interface PlannedPeak {
  planned: PlannedMemory;
  /** Bytes: of the resident peak; where weights are streamed, whose pages the system may drop, of the anonymous one. */
  expected: number;
  found: number;
  /** (expected - found) / found */
  error: number;
}

/** The plan of a job of one step a round, as a long run: its own model and optimizer, rehearsed. Needs initTensorFlow(). */
export function planJob(job: TrainJob): Promise<PlannedMemory> {
  const [{ batchSize, length }] = job.rounds[0];
  const options = { gradientAccumulationSteps: 1, maxGradNorm: 0 };
  return planMemory({ prepare: () => openJobModel(job), options, batchSize, length, baseBytes: 0 });
}

/** A plan beside what the worker held before it made the model, against what it came to hold. */
export function comparePeak({ weights }: TrainJob, planned: PlannedMemory, ready: Ready, last: Round): PlannedPeak {
  const isStreamed = 'folder' in weights && weights.streamed === true;
  const [expected, found] = isStreamed
    ? [planned.anonymous + (ready.baseAnonymous ?? NaN), last.peakAnonymous ?? NaN]
    : [planned.peak + ready.baseBytes, last.peakResident];
  return { planned, expected, found, error: expected / found - 1 };
}
