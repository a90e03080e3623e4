import { spread, type Spread } from './spread.ts';
import type { Round } from './train-job.ts';
import type { Worker } from './worker.ts';
import { note } from './write-benchmark.ts';

/** One side's rounds. */
export interface Side {
  name: string;
  seconds: Spread;
  /** Seconds of each round, in order. */
  rounds: number[];
  loss: number;
  /** Bytes: from the start of the process to the end of warm-up, and to the end of the counted rounds. */
  peakAfterWarmUp: number;
  peakResident: number;
  compileSeconds?: number;
  compiledVariants?: number;
  versions: Record<string, string>;
}

/**
 * Lets the workers make rounds in turn, each time another one first, so that what slows the machine meets all of them alike. Ends them.
 * @param patience seconds; a worker whose round takes longer makes no other one: what is so slow needs no median
 */
export async function alternate(workers: readonly Worker[], rounds: number, patience = 120): Promise<Side[]> {
  const results = new Map<Worker, Round[]>(workers.map((worker) => [worker, []]));
  for (let round = 0; round < rounds; round++) {
    const shift = round % workers.length;
    for (const worker of [...workers.slice(shift), ...workers.slice(0, shift)]) {
      const done = results.get(worker)!;
      if (done.some(({ seconds }) => seconds > patience)) continue;
      const result = await worker.round();
      done.push(result);
      const { seconds, loss, peakResident } = result;
      const memory = `peak ${(peakResident / 1e9).toFixed(2)} GB`;
      note(`round ${round + 1}/${rounds} ${worker.name}: ${seconds.toFixed(2)} s, loss ${loss.toFixed(3)}, ${memory}`);
    }
  }
  for (const worker of workers) await worker.end();
  return workers.map((worker) => sideOf(worker, results.get(worker)!));
}

function sideOf({ name, ready }: Worker, results: readonly Round[]): Side {
  const seconds = results.map((round) => round.seconds);
  const { loss, peakResident } = results[results.length - 1];
  const { versions, compileSeconds, compiledVariants, peakResident: peakAfterWarmUp } = ready;
  return {
    ...{ name, seconds: spread(seconds), rounds: seconds, loss, peakAfterWarmUp, peakResident, versions },
    ...(compileSeconds === undefined ? {} : { compileSeconds, compiledVariants }),
  };
}

/** How much faster `ours` is: the ratio of the medians, and the median of the ratios round by round. */
export function speedup(ours: Side, theirs: Side): { ofMedians: number; paired: Spread } {
  const both = Math.min(ours.rounds.length, theirs.rounds.length);
  const paired = spread(ours.rounds.slice(0, both).map((seconds, round) => theirs.rounds[round] / seconds));
  return { ofMedians: theirs.seconds.median / ours.seconds.median, paired };
}
