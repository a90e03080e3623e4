import { UserError } from '@blockwise/errors';
import { createHash } from 'node:crypto';
import { open, rename, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { openPromise, type Entry, type ZipFile } from 'yauzl';
import type { LockedFile, LockedWheel } from './tensorflow-lock.ts';

/**
 * Takes the shared objects out of a wheel (a zip file), and nothing else, into `folder`. Each is written beside its name, hashed on the
 * way, synced and renamed, so a name in the folder is a whole file.
 * @param report called with the bytes written so far, of all shared objects together
 * @throws UserError when one is missing or is not the pinned one
 */
export async function extractLibraries(
  wheelPath: string,
  wheel: LockedWheel,
  folder: string,
  report: (doneBytes: number) => void,
): Promise<void> {
  let done = 0;
  const advance = (bytes: number) => report((done += bytes));
  const missing = new Set(Object.keys(wheel.libraries));
  const zip = await openPromise(wheelPath, { lazyEntries: true });
  try {
    for await (const entry of zip.eachEntry()) {
      const name = basename(entry.fileName);
      if (entry.fileName !== `tensorflow/${name}` || !missing.has(name)) continue;
      await extractLibrary(zip, entry, wheel.libraries[name], join(folder, name), advance);
      missing.delete(name);
      if (missing.size === 0) break;
    }
  } finally {
    zip.close();
  }
  if (missing.size > 0) throw damaged(wheelPath, `it lacks tensorflow/${[...missing].join(', tensorflow/')}`);
}

async function extractLibrary(
  zip: ZipFile,
  entry: Entry,
  expected: LockedFile,
  path: string,
  advance: (bytes: number) => void,
): Promise<void> {
  if (entry.uncompressedSize !== expected.bytes) {
    throw damaged(entry.fileName, `it has ${entry.uncompressedSize} bytes, expected ${expected.bytes}`);
  }
  const hash = createHash('sha256');
  const file = await open(`${path}.part`, 'w');
  try {
    const content = await zip.openReadStreamPromise(entry);
    await writeFile(
      file,
      tap(content, (chunk) => (hash.update(chunk), advance(chunk.length))),
    );
    await file.sync();
  } finally {
    await file.close();
  }
  const sha256 = hash.digest('hex');
  if (sha256 !== expected.sha256) throw damaged(entry.fileName, `its sha256 is ${sha256}, expected ${expected.sha256}`);
  await rename(`${path}.part`, path);
}

/** The same chunks, each shown to `look` on its way. */
async function* tap(chunks: AsyncIterable<Buffer>, look: (chunk: Buffer) => void): AsyncGenerator<Buffer> {
  for await (const chunk of chunks) {
    look(chunk);
    yield chunk;
  }
}

function damaged(file: string, problem: string): UserError {
  return new UserError(
    `${file}: ${problem}. The wheel is not the one in tensorflow.lock.json.\n  What to do: run again; if it repeats, ` +
      'set BLOCKWISE_TENSORFLOW to a folder that holds the library and report this.',
  );
}
