import { PassThrough } from 'node:stream';
import { expect, test } from 'vitest';
import { consoleProgress } from './provision-progress.ts';

function fakeTerminal(isTTY: boolean) {
  const stream = Object.assign(new PassThrough(), {
    isTTY,
    columns: 120,
    cursorTo() {},
    clearLine() {},
    moveCursor() {},
  });
  return { stream: stream as unknown as NodeJS.WriteStream, text: () => String(stream.read() ?? '') };
}

test('without a terminal there is one plain line a quarter', () => {
  const { stream, text } = fakeTerminal(false);
  const display = consoleProgress('TensorFlow', stream);
  display.show({ phase: 'wait', doneBytes: 0, totalBytes: 0 });
  display.show({ phase: 'wait', doneBytes: 0, totalBytes: 0 });
  for (let done = 0; done <= 200e6; done += 10e6)
    display.show({ phase: 'download', doneBytes: done, totalBytes: 200e6 });
  display.show({ phase: 'extract', doneBytes: 400e6, totalBytes: 400e6 });
  display.stop();
  expect(text().trimEnd().split('\n')).toEqual([
    'TensorFlow: waiting for another process',
    'TensorFlow: downloading 0 of 200 MB',
    'TensorFlow: downloading 50 of 200 MB',
    'TensorFlow: downloading 100 of 200 MB',
    'TensorFlow: downloading 150 of 200 MB',
    'TensorFlow: downloading 200 of 200 MB',
    'TensorFlow: unpacking 400 of 400 MB',
  ]);
});

test('on a terminal there is a bar for each phase', () => {
  const { stream, text } = fakeTerminal(true);
  const display = consoleProgress('TensorFlow', stream);
  display.show({ phase: 'wait', doneBytes: 0, totalBytes: 0 });
  display.show({ phase: 'download', doneBytes: 0, totalBytes: 200e6 });
  display.show({ phase: 'download', doneBytes: 200e6, totalBytes: 200e6 });
  display.show({ phase: 'extract', doneBytes: 400e6, totalBytes: 400e6 });
  display.stop();
  const shown = text();
  expect(shown).toContain('TensorFlow: waiting for another process\n');
  expect(shown).toMatch(/TensorFlow: downloading .*200\/200 MB/);
  expect(shown).toMatch(/TensorFlow: unpacking .*400\/400 MB/);
});
