import { readFileSync, realpathSync } from 'node:fs';
import process from 'node:process';
import { libc } from './library.ts';

const MADV_DONTNEED = 4;

/**
 * Makes the function that gives back what was touched of the libraries and running does not need: relocation tables, symbols, the code that
 * registers kernels (230 MB of resident memory after loading), the compiler. Only code, and the first segment of each file: the linker writes
 * to neither, so what is used again comes back from the page cache. Call it when they are loaded. Nothing on systems other than Linux.
 */
export function cleanLibraryPages(paths: readonly string[]): () => void {
  if (process.platform !== 'linux') return () => {};
  const libraries = new Set(paths.map((path) => realpathSync(path)));
  const ranges: [from: number, length: number][] = [];
  for (const line of readFileSync('/proc/self/maps', 'latin1').split('\n')) {
    const match = /^([0-9a-f]+)-([0-9a-f]+) (r-xp \S+|r--p 0+) \S+ \d+\s+(\/.*)/.exec(line);
    if (!match || !libraries.has(match[4])) continue;
    const [from, to] = [parseInt(match[1], 16), parseInt(match[2], 16)];
    ranges.push([from, to - from]);
  }
  return () => ranges.forEach(([from, length]) => libc.madvise(from, length, MADV_DONTNEED));
}
