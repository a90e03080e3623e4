import koffi from 'koffi';
import { closeSync, fstatSync, ftruncateSync, openSync, readFileSync, rmSync, statSync, writeSync } from 'node:fs';
import process from 'node:process';

/** A file that this process alone holds. */
export interface FileLock {
  /** Gives it back and removes it. */
  release(): void;
}

/** What flock(2) takes: exclusive, without waiting. */
const exclusiveNow = 2 | 4;

/**
 * Takes a lock that the kernel gives back when its holder ends, however it ends, and that holds between containers too, where the number of a
 * process says nothing. The file names its holder.
 * @returns the holder's process number, as it calls itself, where another one has the lock
 * @throws system errors where the file cannot be made
 */
export function tryLock(path: string): FileLock | { heldBy: string } {
  for (;;) {
    const file = openSync(path, 'a+');
    if (flock(file, exclusiveNow) !== 0) {
      closeSync(file);
      return { heldBy: readFileSync(path, 'utf8') };
    }
    // A holder that gave it back in the meantime has removed the file that was opened here.
    if (statSync(path, { throwIfNoEntry: false })?.ino !== fstatSync(file).ino) {
      closeSync(file);
      continue;
    }
    ftruncateSync(file);
    writeSync(file, String(process.pid));
    return {
      release() {
        rmSync(path, { force: true });
        closeSync(file);
      },
    };
  }
}

type Flock = (file: number, operation: number) => number;
let bound: Flock | undefined;

/** Bound when it is first needed: the engine sets koffi up before any library is loaded. */
function flock(file: number, operation: number): number {
  bound ??= koffi
    .load(process.platform === 'darwin' ? 'libSystem.B.dylib' : 'libc.so.6')
    .func('int flock(int file, int operation)') as unknown as Flock;
  return bound(file, operation);
}
