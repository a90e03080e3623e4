import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { lossChart } from './loss-chart.ts';
import { lossCsv } from './loss-table.ts';
import { memoryMarkdown } from './memory-table.ts';
import { writeAside } from './run-record.ts';
import type { RunRecord } from './run-record.ts';

/**
 * Writes `loss.csv`, `memory.md` and `loss.png` into `folder`, from the record alone; each is complete or absent.
 *
 * @param options.plotLoss false leaves `loss.png` out
 */
export function writeReport(folder: string, record: RunRecord, options: { plotLoss?: boolean } = {}): void {
  mkdirSync(folder, { recursive: true });
  writeAside(join(folder, 'loss.csv'), lossCsv(record));
  writeAside(join(folder, 'memory.md'), memoryMarkdown(record));
  if (options.plotLoss ?? true) writeAside(join(folder, 'loss.png'), lossChart(record));
}
