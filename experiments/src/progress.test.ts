import { PassThrough } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { createProgress, duration } from './progress.ts';

function terminal(isTTY: boolean) {
  const stream = Object.assign(new PassThrough(), {
    isTTY,
    columns: 140,
    rows: 40,
    cursorTo() {},
    clearLine() {},
    moveCursor() {},
  });
  const chunks: string[] = [];
  stream.on('data', (chunk: Buffer) => chunks.push(chunk.toString()));
  return { stream: stream as unknown as NodeJS.WriteStream, written: () => chunks.join('') };
}

function report(step: number) {
  return {
    step,
    loss: 2.5 / step,
    learningRate: 1e-3,
    block: 'model.layers.3',
    tokensPerSecond: 3120.4,
    residentBytes: 0.92e9,
  };
}

describe('progress', () => {
  it('writes a plain line for the first, every n-th and the last step where there is no terminal', () => {
    const { stream, written } = terminal(false);
    let clock = 0;
    const progress = createProgress({ totalSteps: 25, loggingSteps: 10, stream, now: () => clock });
    for (let step = 1; step <= 25; step++) {
      clock += 2000;
      progress.step(report(step));
      if (step === 20) progress.note('validation loss 1.2345');
    }
    progress.stop();
    expect(written()).toBe(
      [
        'step 1/25 | loss 2.5000 | lr 1.00e-3 | block model.layers.3 | 3,120 tokens/s | 0.92 GB | ETA 48s',
        'step 10/25 | loss 0.2500 | lr 1.00e-3 | block model.layers.3 | 3,120 tokens/s | 0.92 GB | ETA 30s',
        'step 20/25 | loss 0.1250 | lr 1.00e-3 | block model.layers.3 | 3,120 tokens/s | 0.92 GB | ETA 10s',
        'validation loss 1.2345',
        'step 25/25 | loss 0.1000 | lr 1.00e-3 | block model.layers.3 | 3,120 tokens/s | 0.92 GB | ETA 0s',
        '',
      ].join('\n'),
    );
  });

  it('estimates from the last fifty steps, in a resumed run too', () => {
    const { stream, written } = terminal(false);
    let clock = 0;
    const progress = createProgress({ totalSteps: 200, doneSteps: 100, loggingSteps: 80, stream, now: () => clock });
    for (let step = 101; step <= 160; step++) {
      clock += step <= 110 ? 60_000 : 1000;
      progress.step({ ...report(step), block: null });
    }
    const lines = written().trimEnd().split('\n');
    expect(lines.map((line) => line.split(' | ')[0])).toEqual(['step 101/200', 'step 160/200']);
    expect(lines.map((line) => line.split('ETA ')[1])).toEqual(['1h39m', '40s']);
    expect(lines[0]).not.toContain('block');
  });

  it('draws a bar on a terminal, with notes above it and the cursor left alone', () => {
    const { stream, written } = terminal(true);
    const progress = createProgress({ totalSteps: 4, loggingSteps: 10, stream });
    progress.step(report(1));
    progress.note('a note');
    for (let step = 2; step <= 4; step++) progress.step(report(step));
    progress.stop();
    expect(written()).toContain('\r\u001b[Ka note\n');
    expect(written()).toMatch(
      /█{16} 4\/4 \| loss 0\.6250 \| lr 1\.00e-3 \| block model\.layers\.3 \| 3,120 tokens\/s \| 0\.92 GB \| ETA 0s/,
    );
    expect(written()).not.toContain('\u001b[?25l');
  });
});

describe('duration', () => {
  it('keeps two units', () => {
    expect([0.4, 59.6, 75, 3600, 5400, 360_000].map(duration)).toEqual([
      '0s',
      '1m00s',
      '1m15s',
      '1h00m',
      '1h30m',
      '100h00m',
    ]);
  });
});
