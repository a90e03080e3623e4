import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, it } from 'vitest';
import { tryLock } from './file-lock.ts';

const folder = mkdtempSync(join(tmpdir(), 'file-lock-test-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A process that takes the lock, says so, and stays. */
async function holder(path: string) {
  const module = fileURLToPath(new URL('file-lock.ts', import.meta.url));
  const script = `import { tryLock } from '${module}'; console.log('release' in tryLock('${path}')); setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '--eval', script], {
    cwd: fileURLToPath(new URL('..', import.meta.url)),
  });
  const said = await new Promise<string>((resolve) =>
    child.stdout.once('data', (data: Buffer) => resolve(String(data))),
  );
  return { child, said: said.trim(), ended: new Promise((resolve) => child.once('exit', resolve)) };
}

it('is held until it is released, and leaves no file', () => {
  const path = join(folder, 'own');
  const lock = tryLock(path);
  if (!('release' in lock)) throw new Error('not taken');
  expect(tryLock(path)).toEqual({ heldBy: String(process.pid) });
  lock.release();
  expect(existsSync(path)).toBe(false);
  const again = tryLock(path);
  expect(again).toHaveProperty('release');
  (again as typeof lock).release();
});

it('names another process that holds it, and is free when that process is killed', async () => {
  const path = join(folder, 'other');
  const { child, said, ended } = await holder(path);
  expect(said).toBe('true');
  expect(tryLock(path)).toEqual({ heldBy: String(child.pid) });
  child.kill('SIGKILL');
  await ended;
  expect(tryLock(path)).toHaveProperty('release');
});

it('does not mind what a file of that name says', () => {
  // In another container the number of a killed process may be that of a live one here.
  const path = join(folder, 'stale');
  writeFileSync(path, '1');
  expect(tryLock(path)).toHaveProperty('release');
});
