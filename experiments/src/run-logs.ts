import type { StepRecord, ValidationRecord } from '@blockwise/training';
import { join } from 'node:path';
import { openJsonLog } from './json-log.ts';
import type { Options } from './options.ts';
import { openTensorBoard } from './tensorboard.ts';

/** The logs of a run's progress. */
export interface RunLogs {
  /** @param record its loss is the mean since the last entry */
  step(record: StepRecord): void;
  validation(record: ValidationRecord): void;
  close(): void;
}

/** One log: scalars of a step for charts, and the whole record. */
interface Log {
  write(step: number, scalars: Readonly<Record<string, number>>, record: object): void;
  close?(): void;
}

/**
 * The mean loss since the last entry of a log that has one every `loggingSteps` steps, as transformers logs it. All steps of the run are
 * given, those before an interruption too, so that a resumed run logs what an uninterrupted one would.
 */
export function meanLoss(steps: readonly { loss: number | null }[], loggingSteps: number): number {
  const last = steps.length - 1;
  const losses = steps.slice(last - (last % loggingSteps)).map(({ loss }) => loss ?? Number.NaN);
  return losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
}

/**
 * Opens the logs that --report_to names in a run's folder. One that cannot be written (the disk is full) is given up with a warning: it is not
 * worth the training.
 * @param doneSteps steps that the run goes on from; what is logged beyond them goes
 */
export function openRunLogs(
  { reportTo }: Pick<Options, 'reportTo'>,
  outputDir: string,
  doneSteps: number,
  warn: (line: string) => void,
): RunLogs {
  const open: Record<Options['reportTo'][number], () => Log> = {
    tensorboard: () => {
      const board = openTensorBoard(join(outputDir, 'tensorboard'), doneSteps);
      return { write: (step, scalars) => board.scalars(step, scalars), close: () => board.close() };
    },
    jsonl: () => {
      const log = openJsonLog(join(outputDir, 'log.jsonl'), doneSteps);
      return { write: (step, _scalars, record) => log.append({ step, ...record }) };
    },
  };
  const logs = new Map<string, Log>();
  const attempt = (name: string, action: () => void) => {
    try {
      action();
    } catch (error) {
      if (!(error as NodeJS.ErrnoException).syscall) throw error;
      logs.delete(name);
      warn(`warning: the ${name} log ends here: ${(error as Error).message}`);
    }
  };
  for (const name of reportTo) attempt(name, () => void logs.set(name, open[name]()));
  const write: Log['write'] = (...entry) =>
    [...logs].forEach(([name, log]) => attempt(name, () => log.write(...entry)));
  return {
    step(record) {
      const { step, loss, learningRate, gradNorm } = record;
      const scalars: Record<string, number> = { 'train/loss': loss, 'train/learning_rate': learningRate };
      if (gradNorm !== null) scalars['train/grad_norm'] = gradNorm;
      write(step, scalars, record);
    },
    validation: ({ step, loss }) => write(step, { 'eval/loss': loss }, { validationLoss: loss }),
    close: () => logs.forEach((log) => log.close?.()),
  };
}
