import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { StepRecord } from '@blockwise/training';
import { afterAll, expect, it } from 'vitest';
import { meanLoss, openRunLogs } from './run-logs.ts';

const folder = mkdtempSync(join(tmpdir(), 'run-logs-test-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const step = { step: 1, loss: 2, learningRate: 3, gradNorm: null } as StepRecord;

it('gives up a log that cannot be written, with a warning, and keeps the other', () => {
  const place = join(folder, 'one');
  mkdirSync(place);
  writeFileSync(join(place, 'tensorboard'), 'a file in its place');
  const warnings: string[] = [];
  const logs = openRunLogs({ reportTo: ['tensorboard', 'jsonl'] }, place, 0, (line) => warnings.push(line));
  logs.step(step);
  logs.validation({ step: 1, loss: 4 });
  expect(warnings).toEqual([expect.stringMatching(/^warning: the tensorboard log ends here: EEXIST/)]);
  const lines = readFileSync(join(place, 'log.jsonl'), 'utf8').trimEnd().split('\n');
  expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual([step, { step: 1, validationLoss: 4 }]);

  rmSync(join(place, 'log.jsonl'));
  mkdirSync(join(place, 'log.jsonl'));
  logs.step({ ...step, step: 2 });
  logs.step({ ...step, step: 3 });
  expect(warnings.slice(1)).toEqual([expect.stringMatching(/^warning: the jsonl log ends here: EISDIR/)]);
  logs.close();
});

it('means the loss over the steps since the last entry', () => {
  const steps = [1, 2, 6, 4, 9].map((loss) => ({ loss }));
  const means = steps.map((_, i) => meanLoss(steps.slice(0, i + 1), 3));
  expect(means).toEqual([1, 1.5, 3, 4, 6.5]);
  expect(steps.map((_, i) => meanLoss(steps.slice(0, i + 1), 1))).toEqual([1, 2, 6, 4, 9]);
});

it('opens none that is not asked for', () => {
  openRunLogs({ reportTo: [] }, join(folder, 'none'), 0, () => {}).step(step);
  expect(existsSync(join(folder, 'none'))).toBe(false);
});
