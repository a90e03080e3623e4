/** Learning-rate schedules of transformers' get_scheduler (optimization.py), by their names there. */
export const schedulerTypes = ['linear', 'cosine', 'constant', 'constant_with_warmup'] as const;
export type SchedulerType = (typeof schedulerTypes)[number];

/**
 * The factor by which the peak learning rate is multiplied at a step.
 * @param step steps taken before, from 0
 * @param totalSteps steps of the whole run
 * @param warmupSteps steps of linear rise from 0 (none for `constant`)
 */
export function learningRateFactor(type: SchedulerType, step: number, totalSteps: number, warmupSteps: number): number {
  if (type === 'constant') return 1;
  if (step < warmupSteps) return step / Math.max(1, warmupSteps);
  const progress = (step - warmupSteps) / Math.max(1, totalSteps - warmupSteps);
  switch (type) {
    case 'constant_with_warmup':
      return 1;
    case 'linear':
      return Math.max(0, 1 - progress);
    case 'cosine':
      return Math.max(0, 0.5 * (1 + Math.cos(Math.PI * progress)));
  }
}
