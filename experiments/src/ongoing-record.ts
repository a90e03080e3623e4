import { writeReport, writeRunRecord, type RunRecord } from '@blockwise/reporting';
import { join } from 'node:path';
import type { ChosenOptimizer } from './create-optimizer.ts';
import type { Options } from './options.ts';
import type { OutputFolder } from './output-folder.ts';
import { begunRecord, failedRecord, openRecord, type RunParts } from './record.ts';

/** The record of a run in hand, and from the moment that training begins its file; at the end the report that is made from it. */
export class OngoingRecord {
  private readonly opening: ReturnType<typeof openRecord>;
  private begun: { record: RunRecord; chosen: ChosenOptimizer } | undefined;

  constructor(
    readonly folder: OutputFolder,
    private readonly outputDir: string,
    private readonly options: Options,
    command: string,
  ) {
    this.opening = openRecord(options, command);
  }

  /**
   * Training is about to begin: what an earlier run left goes, and run.json says that this one runs. Steps and validations are to be added to
   * the record as they come.
   */
  begin(parts: RunParts): RunRecord {
    this.folder.clear();
    const record = begunRecord(this.opening, parts);
    this.begun = { record, chosen: parts.chosen };
    this.writeRecord(record);
    return record;
  }

  /** The report comes first: a run that run.json calls finished has one. */
  end(finished: RunRecord): void {
    this.writeReport(finished);
    this.writeRecord(finished);
  }

  /** Keeps what was seen up to the failure, where that can be written: on a full disk the failure itself says more. */
  fail(error: Error): void {
    if (!this.begun) return;
    const { record, chosen } = this.begun;
    try {
      const failed = failedRecord(record, chosen, error);
      this.writeRecord(failed);
      this.writeReport(failed);
    } catch {
      // run.json still says that the run is running, as after a kill, or the report lacks a file.
    }
  }

  private writeRecord(record: RunRecord): void {
    writeRunRecord(join(this.outputDir, 'run.json'), record);
  }

  private writeReport(record: RunRecord): void {
    writeReport(this.outputDir, record, { plotLoss: this.options.plotLoss });
  }
}
