import type { RunRecord } from './run-record.ts';
import { csvTable } from './tables.ts';

/**
 * The losses of a run as CSV: one line for each step, the validation loss in its own column (empty where none was
 * measured; step 0 is the model before training). Losses in nats a label token. No column holds a time, so that equal
 * runs write equal files.
 */
export function lossCsv(record: RunRecord): string {
  const validation = new Map(record.validation.map(({ step, loss }) => [step, loss]));
  const training = new Map(record.steps.map((entry) => [entry.step, entry]));
  const steps = [...new Set([...training.keys(), ...validation.keys()])].sort((a, b) => a - b);
  return csvTable(
    ['step', 'epoch', 'loss', 'learning_rate', 'block', 'validation_loss'],
    steps.map((step) => {
      const entry = training.get(step);
      return [step, entry?.epoch, entry?.loss, entry?.learningRate, entry?.block, validation.get(step)];
    }),
  );
}
