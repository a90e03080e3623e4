import { UserError } from '@blockwise/errors';
import { mkdir, open, rename, rm } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

/** The name a file has until it is complete. */
function asideOf(path: string): string {
  return join(dirname(path), `.${basename(path)}.${process.pid}.partial`);
}

/**
 * Writes what `fill` writes into a new file beside `path`, synced, and returns its name; `publish` gives it the final
 * one. Whatever fails removes it. @throws UserError where the folder is absent, read-only or full; what `fill` throws.
 */
export async function writeAside(path: string, fill: (file: FileHandle) => Promise<void>): Promise<string> {
  const aside = asideOf(path);
  let file: FileHandle | undefined;
  try {
    file = await open(aside, 'w');
    await fill(file);
    await file.sync();
    await file.close();
    return aside;
  } catch (error) {
    await file?.close().catch(() => undefined);
    await rm(aside, { force: true }).catch(() => undefined);
    // Of what fails here only the system's own errors are about the file: TensorFlow's have codes too.
    const { code, syscall } = error as NodeJS.ErrnoException;
    if (!syscall) throw error;
    throw new UserError(`${path}: cannot be written (${code}); is its folder there, writable, and the disk not full?`);
  }
}

/** Gives files written aside their final names, in order, and makes that survive a power cut. */
export async function publish(paths: readonly string[]): Promise<void> {
  for (const path of paths) await rename(asideOf(path), path);
  for (const folder of new Set(paths.map((path) => dirname(path)))) await syncFolder(folder);
}

/** Writes a file that is complete or absent. @throws UserError as writeAside() */
export async function writeFileAside(path: string, contents: string | Uint8Array): Promise<void> {
  await writeAside(path, (file) => file.writeFile(contents));
  await publish([path]);
}

/** Removes what was written aside for these paths and not published. */
export async function discard(paths: readonly string[]): Promise<void> {
  for (const path of paths) await rm(asideOf(path), { force: true });
}

/** Makes renames in a folder outlast a power cut. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/**
 * Makes a folder that is complete or absent: `fill` fills `<folder>.partial`, which then takes the place of `folder`. Whatever a killed process left
 * aside goes; what fails stays aside for the next attempt to remove.
 */
export async function writeFolderAside(folder: string, fill: (aside: string) => Promise<void>): Promise<void> {
  const aside = `${folder}.partial`;
  await rm(aside, { recursive: true, force: true });
  await mkdir(aside, { recursive: true });
  await fill(aside);
  await rm(folder, { recursive: true, force: true });
  await rename(aside, folder);
  await syncFolder(dirname(folder));
}
