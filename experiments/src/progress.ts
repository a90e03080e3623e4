import { SingleBar } from 'cli-progress';

/** What is shown of one step. */
export interface StepProgress {
  step: number;
  /** Nats a label token. */
  loss: number;
  learningRate: number;
  /** Name of the active block; null when all parameters train. */
  block: string | null;
  tokensPerSecond: number;
  /** Resident memory of the process, bytes. */
  residentBytes: number;
}

/** Shows how far a run is: a bar on a terminal, elsewhere a plain line every few steps. */
export interface Progress {
  step(report: StepProgress): void;
  /** A line of its own: above the bar, or between the plain lines. */
  note(text: string): void;
  /** Leaves the terminal as it was. Call it before any other output, also on a failure or an interrupt. */
  stop(): void;
}

export interface ProgressOptions {
  totalSteps: number;
  /** Steps done before, in a resumed run. */
  doneSteps?: number;
  /** Steps between two plain lines; the first and last step always have one. */
  loggingSteps: number;
  stream?: NodeJS.WriteStream;
  /** Milliseconds; for tests. */
  now?: () => number;
}

/** Steps whose mean duration (evaluations and checkpoints included) the remaining time is estimated by. */
const etaWindow = 50;

export function createProgress(options: ProgressOptions): Progress {
  const { totalSteps, doneSteps = 0, loggingSteps, stream = process.stdout, now = () => performance.now() } = options;
  const times = [now()];
  const remaining = (step: number) => {
    times.push(now());
    if (times.length > etaWindow + 1) times.shift();
    return (((times.at(-1)! - times[0]!) / (times.length - 1)) * (totalSteps - step)) / 1000;
  };
  return stream.isTTY
    ? barProgress(totalSteps, doneSteps, stream, remaining)
    : lineProgress(totalSteps, doneSteps, loggingSteps, stream, remaining);
}

function lineProgress(
  totalSteps: number,
  doneSteps: number,
  loggingSteps: number,
  stream: NodeJS.WriteStream,
  remaining: (step: number) => number,
): Progress {
  return {
    step(report) {
      const left = remaining(report.step);
      const due = report.step % loggingSteps === 0 || report.step === doneSteps + 1 || report.step === totalSteps;
      if (due) stream.write(`step ${report.step}/${totalSteps} | ${describe(report)} | ETA ${duration(left)}\n`);
    },
    note: (text) => void stream.write(`${text}\n`),
    stop() {},
  };
}

function barProgress(
  totalSteps: number,
  doneSteps: number,
  stream: NodeJS.WriteStream,
  remaining: (step: number) => number,
): Progress {
  const bar = new SingleBar({
    stream,
    format: '{bar} {value}/{total} | {report}',
    barsize: 16,
    barCompleteChar: '█',
    barIncompleteChar: '░',
    // The loop owns signals and the cursor: a killed run must not leave a terminal without one.
    gracefulExit: false,
    hideCursor: false,
    forceRedraw: true,
    fps: 10,
    etaBuffer: 1,
  });
  bar.start(totalSteps, doneSteps, { report: 'starting' });
  return {
    step(report) {
      bar.update(report.step, { report: `${describe(report)} | ETA ${duration(remaining(report.step))}` });
    },
    note(text) {
      stream.write(`\r\u001b[K${text}\n`);
    },
    stop: () => bar.stop(),
  };
}

function describe({ loss, learningRate, block, tokensPerSecond, residentBytes }: StepProgress): string {
  const parts = [
    `loss ${loss.toFixed(4)}`,
    `lr ${learningRate.toExponential(2)}`,
    ...(block === null ? [] : [`block ${block}`]),
    `${Math.round(tokensPerSecond).toLocaleString('en-US')} tokens/s`,
    `${(residentBytes / 1e9).toFixed(2)} GB`,
  ];
  return parts.join(' | ');
}

/** `75` -> `1m15s`, `5400` -> `1h30m`. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole}s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}m${String(whole % 60).padStart(2, '0')}s`;
  return `${Math.floor(minutes / 60)}h${String(minutes % 60).padStart(2, '0')}m`;
}
