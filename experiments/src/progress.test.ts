import { PassThrough } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { createProgress, duration } from './progress.ts';

function output(isTTY: boolean, columns = 140) {
  const stream = Object.assign(new PassThrough(), { isTTY, columns });
  const chunks: string[] = [];
  stream.on('data', (chunk: Buffer) => chunks.push(chunk.toString()));
  return { stream: stream as unknown as NodeJS.WriteStream, written: () => chunks.join('') };
}

/** The lines that a terminal of so many rows and columns shows after some bytes, those that scrolled out of it included. */
function shown(bytes: string, rows: number, columns: number): string[] {
  const lines = [''];
  let [top, row, column, wraps, saved] = [0, 0, 0, true, [0, 0]];
  const down = () => {
    row++;
    lines[row] ??= '';
    top = Math.max(top, row - rows + 1);
  };
  const put = (character: string) => {
    if (column === columns && wraps) [column] = [0, down()];
    column = Math.min(column, columns - 1);
    const line = lines[row]!.padEnd(column);
    lines[row] = line.slice(0, column++) + character + line.slice(column);
  };
  for (const [part] of bytes.matchAll(/\u001b(\[[?\d;]*[a-zA-Z]|.)|[^]/g)) {
    if (part === '\r') column = 0;
    else if (part === '\n') [column] = [0, down()];
    else if (/^\u001b\[0?K$/.test(part)) lines[row] = lines[row]!.slice(0, column);
    else if (/^\u001b\[\d+G$/.test(part)) column = parseInt(part.slice(2)) - 1;
    else if (/^\u001b\[\?7[hl]$/.test(part)) wraps = part.endsWith('h');
    // The cursor's place is kept on the screen, whatever scrolls below it.
    else if (part === '\u001b7') saved = [row - top, column];
    else if (part === '\u001b8') [row, column] = [top + saved[0]!, saved[1]!];
    else if (part.startsWith('\u001b')) throw new Error(`unknown sequence ${JSON.stringify(part)}`);
    else put(part);
  }
  return lines.map((line) => line.trimEnd());
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
    const { stream, written } = output(false);
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
        'step 1/25 | ETA 48s | loss 2.5000 | 3,120 tokens/s | 0.92 GB | lr 1.00e-3 | block model.layers.3',
        'step 10/25 | ETA 30s | loss 0.2500 | 3,120 tokens/s | 0.92 GB | lr 1.00e-3 | block model.layers.3',
        'step 20/25 | ETA 10s | loss 0.1250 | 3,120 tokens/s | 0.92 GB | lr 1.00e-3 | block model.layers.3',
        'validation loss 1.2345',
        'step 25/25 | ETA 0s | loss 0.1000 | 3,120 tokens/s | 0.92 GB | lr 1.00e-3 | block model.layers.3',
        '',
      ].join('\n'),
    );
  });

  it('estimates from the last fifty steps, in a resumed run too', () => {
    const { stream, written } = output(false);
    let clock = 0;
    const progress = createProgress({ totalSteps: 200, doneSteps: 100, loggingSteps: 80, stream, now: () => clock });
    for (let step = 101; step <= 160; step++) {
      clock += step <= 110 ? 60_000 : 1000;
      progress.step({ ...report(step), block: null });
    }
    const lines = written().trimEnd().split('\n');
    expect(lines.map((line) => line.split(' | ')[0])).toEqual(['step 101/200', 'step 160/200']);
    expect(lines.map((line) => /ETA (\w+)/.exec(line)![1])).toEqual(['1h39m', '40s']);
    expect(lines[0]).not.toContain('block');
  });

  it('keeps its bar below its notes on a terminal, and what is written after it below the bar, although the screen scrolls', () => {
    const { stream, written } = output(true, 80);
    stream.write('a line before\n');
    const progress = createProgress({ totalSteps: 12, loggingSteps: 10, stream, now: () => 0 });
    for (let step = 1; step <= 12; step++) {
      progress.step(report(step));
      if (step % 2 === 0) progress.note(`note ${step}`);
    }
    progress.stop();
    stream.write('\nthe end\n');
    expect(shown(written(), 5, 80)).toEqual([
      'a line before',
      ...[2, 4, 6, 8, 10, 12].map((step) => `note ${step}`),
      '████████████████ 12/12 | ETA 0s | loss 0.2083 | 3,120 tokens/s | 0.92 GB',
      '',
      'the end',
      '',
    ]);
  });

  it.each([
    [140, '████░░░░░░░░░░░░ 1/4 | ETA 6s | loss 2.5000 | 3,120 tokens/s | 0.92 GB | lr 1.00e-3 | block model.layers.3'],
    [100, '████░░░░░░░░░░░░ 1/4 | ETA 6s | loss 2.5000 | 3,120 tokens/s | 0.92 GB | lr 1.00e-3'],
    [80, '████░░░░░░░░░░░░ 1/4 | ETA 6s | loss 2.5000 | 3,120 tokens/s | 0.92 GB'],
    [44, '████░░░░░░░░░░░░ 1/4 | ETA 6s | loss 2.5000'],
    [43, '████░░░░░░░░░░░░ 1/4 | ETA 6s'],
    [10, '████░░░░░'],
    // A terminal that does not tell its width.
    [0, '████░░░░░░░░░░░░ 1/4 | ETA 6s | loss 2.5000 | 3,120 tokens/s | 0.92 GB'],
  ])('leaves out of its one line what %i columns have no room for, the remaining time last', (columns, line) => {
    const { stream, written } = output(true, columns);
    let clock = 0;
    const progress = createProgress({ totalSteps: 4, loggingSteps: 10, stream, now: () => clock });
    clock = 2000;
    progress.step(report(1));
    progress.stop();
    expect(shown(written(), 5, columns || 80)).toEqual([line, '']);
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
