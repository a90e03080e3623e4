import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { loadLibrary } from './library.ts';

test('a file that is no library is refused in words that say what to do', () => {
  const folder = mkdtempSync(join(tmpdir(), 'blockwise-library-'));
  const paths = ['libtensorflow_framework.so.2', 'libtensorflow_cc.so.2'].map((name) => join(folder, name));
  paths.forEach((path) => writeFileSync(path, ''));
  expect(() => loadLibrary(paths[0], paths[1])).toThrow(
    expect.objectContaining({
      name: 'UserError',
      message: expect.stringMatching(
        /libtensorflow_framework\.so\.2: cannot be loaded as a library \(.*\)\.\n {2}What to do: unset BLOCKWISE_TENSORFLOW/,
      ) as string,
    }),
  );
  rmSync(folder, { recursive: true });
});
