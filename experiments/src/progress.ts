/** What is shown of one step. */
export interface StepProgress {
  step: number;
  /** Nats a label token: the mean since the last line of log. */
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
  /** Ends the bar: what is written next is below it. Call it before any other output, also on a failure or an interrupt. */
  stop(): void;
}

/** What progress is shown of, and where. */
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

/** Shows progress on a stream: a bar where it is a terminal. */
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
      if (due) stream.write(`${[`step ${report.step}/${totalSteps}`, ...describe(report, left)].join(' | ')}\n`);
    },
    note: (text) => void stream.write(`${text}\n`),
    stop() {},
  };
}

/** Characters of a bar. */
const barSize = 16;
/** To the first column; clear the line. No position on the screen is kept: what is written scrolls it. */
const clearLine = '\r\u001b[K';

function barProgress(
  totalSteps: number,
  doneSteps: number,
  stream: NodeJS.WriteStream,
  remaining: (step: number) => number,
): Progress {
  let line = '';
  const draw = (step: number, parts: readonly string[]) => {
    const full = Math.round((barSize * step) / totalSteps);
    const bar = `${'█'.repeat(full)}${'░'.repeat(barSize - full)} ${step}/${totalSteps}`;
    // A character in the last column would leave it to the terminal where the cursor is.
    line = fitted([bar, ...parts], (stream.columns || 80) - 1);
    stream.write(`${clearLine}${line}`);
  };
  draw(doneSteps, ['starting']);
  return {
    step: (report) => draw(report.step, describe(report, remaining(report.step))),
    note: (text) => void stream.write(`${clearLine}${text}\n${line}`),
    stop: () => void stream.write('\n'),
  };
}

/** As many of the parts as a line has room for, from the first. */
function fitted(parts: readonly string[], width: number): string {
  const lines = parts.map((_, i) => parts.slice(0, i + 1).join(' | '));
  return lines.findLast((line) => line.length <= width) ?? parts[0]!.slice(0, width);
}

/** What is said of a step with so many seconds left after it; what a narrow terminal may do without comes last. */
function describe({ loss, learningRate, block, tokensPerSecond, residentBytes }: StepProgress, left: number): string[] {
  return [
    `ETA ${duration(left)}`,
    `loss ${loss.toFixed(4)}`,
    `${Math.round(tokensPerSecond).toLocaleString('en-US')} tokens/s`,
    `${(residentBytes / 1e9).toFixed(2)} GB`,
    `lr ${learningRate.toExponential(2)}`,
    ...(block === null ? [] : [`block ${block}`]),
  ];
}

/** `75` -> `1m15s`, `5400` -> `1h30m`. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole}s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}m${String(whole % 60).padStart(2, '0')}s`;
  return `${Math.floor(minutes / 60)}h${String(minutes % 60).padStart(2, '0')}m`;
}
