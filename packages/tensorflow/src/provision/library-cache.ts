import { UserError } from '@blockwise/errors';
import { randomBytes } from 'node:crypto';
import { readFile, mkdir, readdir, rename, rm, stat, statfs, utimes, writeFile } from 'node:fs/promises';
import { homedir, hostname } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import process from 'node:process';
import type { LockedWheel } from './tensorflow-lock.ts';

/*
 * One folder per version, variant and platform. It is filled aside, in a staging folder, and appears by one rename: a folder that is
 * there is whole, and two processes that fill it at once cannot mix. Its manifest is written last and checked on every use.
 *
 * A staging folder is touched every second while its owner works, so that others can wait for it, and sweep it when the owner is gone.
 */
const manifestName = 'complete.json';
const heartbeat = 1_000;
/** Milliseconds without a heartbeat after which an owner counts as gone. */
const silence = 30_000;

/** Blockwise's cache: BLOCKWISE_CACHE, else `blockwise` in XDG_CACHE_HOME or ~/.cache. */
export function cacheFolder(): string {
  return resolve(
    process.env.BLOCKWISE_CACHE || join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'blockwise'),
  );
}

/** Whether `folder` holds this wheel's shared objects, complete: manifest and sizes are checked, contents were when they were written. */
export async function isCached(folder: string, wheel: LockedWheel): Promise<boolean> {
  try {
    const manifest = JSON.parse(await readFile(join(folder, manifestName), 'utf8')) as { wheel?: string };
    if (manifest.wheel !== wheel.sha256) return false;
    for (const [name, { bytes }] of Object.entries(wheel.libraries)) {
      if ((await stat(join(folder, name))).size !== bytes) return false;
    }
    return true;
  } catch {
    return false;
  }
}

/** Fills a cache folder: `fill` writes the shared objects into `libraries` and may use the rest of `staging` as it likes. */
export async function fillCache(
  folder: string,
  wheel: LockedWheel,
  fill: (staging: string, libraries: string) => Promise<void>,
): Promise<void> {
  const staging = `${folder}.partial-${hostname()}-${process.pid}-${randomBytes(4).toString('hex')}`;
  const libraries = join(staging, 'libraries');
  await mkdir(libraries, { recursive: true }).catch((error: Error) => Promise.reject(notWritable(folder, error)));
  const timer = setInterval(() => void utimes(staging, new Date(), new Date()).catch(() => undefined), heartbeat);
  try {
    await checkSpace(staging, wheel);
    await fill(staging, libraries);
    const manifest = { wheel: wheel.sha256, filename: wheel.filename, libraries: wheel.libraries };
    await writeFile(join(libraries, manifestName), `${JSON.stringify(manifest, null, 2)}\n`, { flush: true });
    await publish(libraries, folder, wheel);
  } catch (error) {
    throw (error as NodeJS.ErrnoException).code === 'ENOSPC' ? noSpace(folder, wheel, 'the disk is full') : error;
  } finally {
    clearInterval(timer);
    await rm(staging, { recursive: true, force: true });
  }
}

/** Renames a finished folder to its place; if a finished one is there already, that one stays. */
async function publish(finished: string, folder: string, wheel: LockedWheel): Promise<void> {
  for (let attempt = 0; !(await isCached(folder, wheel)); attempt++) {
    try {
      return await rename(finished, folder);
    } catch (error) {
      if (!['ENOTEMPTY', 'EEXIST'].includes((error as NodeJS.ErrnoException).code ?? '') || attempt > 9) throw error;
    }
    // What is in the way appeared this instant, and is looked at again, or it is damaged or of another wheel and has to go: by
    // rename too, since a process may be loading it. That another process removed it first is as good.
    if (await isCached(folder, wheel)) return;
    await rename(folder, join(dirname(finished), `replaced-${attempt}`)).catch(() => undefined);
  }
}

/** Whether some process is filling `folder` now. Staging folders whose owner is gone are removed on the way. */
export async function isBeingFilled(folder: string): Promise<boolean> {
  const prefix = `${basename(folder)}.partial-`;
  let filling = false;
  for (const name of await readdir(dirname(folder)).catch(() => [])) {
    const owner = name.startsWith(prefix) ? /^(.*)-(\d+)-[0-9a-f]{8}$/.exec(name.slice(prefix.length)) : null;
    if (!owner) continue;
    const [, host, pid] = owner;
    const path = join(dirname(folder), name);
    const touched = await stat(path).then(
      ({ mtimeMs }) => mtimeMs,
      () => undefined,
    );
    if (touched === undefined) continue;
    const alive = Date.now() - touched < silence && (host !== hostname() || isRunning(Number(pid)));
    if (alive) filling = true;
    else await rm(path, { recursive: true, force: true });
  }
  return filling;
}

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** @throws UserError unless the disk can hold what filling needs at its widest */
async function checkSpace(staging: string, wheel: LockedWheel): Promise<void> {
  const { bavail, bsize } = await statfs(staging);
  const free = bavail * bsize;
  if (free < neededBytes(wheel)) throw noSpace(staging, wheel, `${gigabytes(free)} GB are free`);
}

/** Bytes on disk while filling: pip holds the wheel twice when it copies it to its place; later the wheel and its contents coexist. */
function neededBytes(wheel: LockedWheel): number {
  const unpacked = Object.values(wheel.libraries).reduce((sum, { bytes }) => sum + bytes, 0);
  return Math.max(2 * wheel.bytes, wheel.bytes + unpacked) + (64 << 20);
}

function noSpace(path: string, wheel: LockedWheel, found: string): UserError {
  return new UserError(
    `Not enough disk space for the TensorFlow library in ${dirname(path)}: ${gigabytes(neededBytes(wheel))} GB are needed for a ` +
      `while, ${found}.\n  What to do: free some space, or set BLOCKWISE_CACHE to a folder on a larger disk.`,
  );
}

function notWritable(folder: string, error: Error): UserError {
  return new UserError(
    `The cache folder ${dirname(folder)} cannot be written: ${error.message}.\n` +
      '  What to do: set BLOCKWISE_CACHE to a folder that you may write to.',
  );
}

const gigabytes = (bytes: number) => (bytes / 1e9).toFixed(2);
