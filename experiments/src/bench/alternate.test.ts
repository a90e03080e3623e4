import { describe, expect, test } from 'vitest';
import { alternate, speedup } from './alternate.ts';
import { spread } from './spread.ts';
import { reportMark, type Round } from './train-job.ts';
import { startWorker, type Worker } from './worker.ts';

const ready = { versions: { thing: '1' }, baseBytes: 1, peakResident: 5, loadSeconds: 0 };

/** Takes the given seconds in its rounds and writes its name at each. */
function fake(name: string, seconds: number[], calls: string[]): Worker {
  let next = 0;
  return {
    ...{ name, ready },
    round: () => {
      calls.push(name);
      const round: Round = { seconds: seconds[next], loss: 2, peakResident: 10 + next++ };
      return Promise.resolve(round);
    },
    end: () => Promise.resolve(void calls.push(`${name} ends`)),
    peakResident: () => 10 + next,
    kill: () => {},
  };
}

test('spread: the middle value, or the mean of the middle two', () => {
  expect(spread([3, 1, 20])).toEqual({ median: 3, min: 1, max: 20 });
  expect(spread([4, 1, 2, 9])).toEqual({ median: 3, min: 1, max: 9 });
  expect(() => spread([])).toThrow('internal: nothing was measured');
});

test('alternate: a worker that takes longer than the patience makes one round', async () => {
  const calls: string[] = [];
  const sides = await alternate([fake('slow', [200], calls), fake('fast', [1, 2, 3], calls)], 3, 120);
  expect(sides.map(({ rounds }) => rounds)).toEqual([[200], [1, 2, 3]]);
  expect(speedup(sides[1], sides[0])).toMatchObject({ ofMedians: 100, paired: { median: 200 } });
});

test('alternate: all take turns, each time another one first; both kinds of ratio', async () => {
  const calls: string[] = [];
  const sides = await alternate([fake('a', [1, 2, 3], calls), fake('b', [10, 4, 9], calls)], 3);
  expect(calls).toEqual(['a', 'b', 'b', 'a', 'a', 'b', 'a ends', 'b ends']);
  expect(sides[1]).toMatchObject({ name: 'b', rounds: [10, 4, 9], peakAfterWarmUp: 5, peakResident: 12, loss: 2 });
  expect(speedup(sides[0], sides[1])).toEqual({ ofMedians: 4.5, paired: { median: 3, min: 2, max: 10 } });
});

describe('a worker process', () => {
  const script = (body: string) => [process.execPath, '-e', body];
  const report = (value: object) => `console.log(${JSON.stringify(reportMark + JSON.stringify(value))});`;

  test('reports that it is ready and then once for each line, whatever else it prints', async () => {
    const round = { seconds: 3, loss: 1, peakResident: 2 };
    const body = `console.log('chatter'); ${report(ready)} process.stdin.on('data', () => { ${report(round)} });`;
    const worker = await startWorker('fine', script(body));
    expect(worker.ready).toEqual(ready);
    expect(await worker.round()).toEqual(round);
    expect(await worker.round()).toEqual(round);
    await worker.end();
  });

  test('fails with what it printed last when it ends too early', async () => {
    const dies = startWorker('dies', script(`console.error('no such model'); process.exit(3)`));
    await expect(dies).rejects.toThrow('the worker dies ended with code 3:\nno such model');
    const later = await startWorker(
      'later',
      script(`${report(ready)} process.stdin.on('data', () => process.exit(0))`),
    );
    await expect(later.round()).rejects.toThrow('the worker later ended with code 0');
    await expect(startWorker('missing', ['/nonexistent/program'])).rejects.toThrow('ENOENT');
  });
});
