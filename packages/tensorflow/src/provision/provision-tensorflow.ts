import { UserError } from '@blockwise/errors';
import { existsSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { downloadWheel } from './download-wheel.ts';
import { extractLibraries } from './extract-libraries.ts';
import { installedTensorFlow } from './installed-tensorflow.ts';
import { cacheFolder, fillCache, isBeingFilled, isCached } from './library-cache.ts';
import { consoleProgress, type ProgressDisplay, type ProvisionProgress } from './provision-progress.ts';
import { hostPlatform, libcSuffix, libraryNames, lockedWheel, tensorFlowLock } from './tensorflow-lock.ts';
import type { LockedWheel, TensorFlowLock, TensorFlowVariant } from './tensorflow-lock.ts';

/** Which library is wanted, and who is told how far its download is. */
export interface ProvisionOptions {
  /** The build to find or fetch; default `cpu`. */
  variant?: TensorFlowVariant;
  /** Takes the place of the progress bar on stderr. */
  onProgress?: (progress: ProvisionProgress) => void;
}

/** Where TensorFlow's two shared objects are; load `frameworkPath` first. */
export interface TensorFlowLibrary {
  frameworkPath: string;
  ccPath: string;
  /** undefined for a configured folder: the library itself tells, once loaded (TF_Version). */
  version: string | undefined;
  /** What the library is: an installed `cuda` build also serves a request for `cpu`. For a configured folder, what was asked for. */
  variant: TensorFlowVariant;
  source: 'configured' | 'cache' | 'installed' | 'downloaded';
}

/** Longest wait for another process, in milliseconds; then this one downloads too. */
const patience = 600_000;

/** Calls under way, so that two in one process share one download. */
const underWay = new Map<string, Promise<TensorFlowLibrary>>();

/**
 * Finds libtensorflow, or fetches it once. In order: the folder in BLOCKWISE_TENSORFLOW; the cache (BLOCKWISE_CACHE, else
 * `blockwise` in XDG_CACHE_HOME or ~/.cache); a TensorFlow of the pinned version that Python has; `pip download` of the pinned wheel
 * into the cache (BLOCKWISE_PYTHON names the interpreter), of which only the two shared objects are kept.
 *
 * The `cuda` build finds CUDA's own libraries when it is loaded; those (the `nvidia-*` packages, or a system CUDA) are the user's to
 * install, on LD_LIBRARY_PATH or as a folder `nvidia` beside the cached one, where its run path looks. Without them it runs on the CPU.
 * @throws UserError with what to do, when the configured folder lacks a file, nothing exists for this platform, pip is absent or
 *   fails, the content is not the pinned one, the disk is too small or the cache cannot be written
 */
export function provisionTensorFlow(options: ProvisionOptions = {}): Promise<TensorFlowLibrary> {
  return provisionFromLock(tensorFlowLock, options);
}

/** `provisionTensorFlow` for a given lock. */
export async function provisionFromLock(
  lock: TensorFlowLock,
  options: ProvisionOptions = {},
): Promise<TensorFlowLibrary> {
  const variant = options.variant ?? 'cpu';
  if (process.env.BLOCKWISE_TENSORFLOW) return configuredLibrary(resolve(process.env.BLOCKWISE_TENSORFLOW), variant);
  const platform = hostPlatform();
  const key = `${lock.version}-${variant}-${platform}`;
  const folder = join(cacheFolder(), 'tensorflow', key);
  const pending = underWay.get(folder);
  if (pending) return pending;
  const call = findOrFetch(lock, lockedWheel(lock, platform, variant), folder, variant, options);
  underWay.set(folder, call);
  return call.finally(() => underWay.delete(folder));
}

async function findOrFetch(
  lock: TensorFlowLock,
  wheel: LockedWheel,
  folder: string,
  variant: TensorFlowVariant,
  options: ProvisionOptions,
): Promise<TensorFlowLibrary> {
  const cached = { ...libraryPaths(folder), version: lock.version, variant };
  if (await isCached(folder, wheel)) return { ...cached, source: 'cache' };
  lockedWheel(lock, hostPlatform() + libcSuffix(), variant); // refuses a Linux without glibc
  const installed = await installedLibrary(lock, variant);
  if (installed) return installed;
  const display: ProgressDisplay = options.onProgress
    ? { show: options.onProgress, stop: () => undefined }
    : consoleProgress(`TensorFlow ${lock.version} (${variant})`);
  try {
    return { ...cached, source: await fetchIntoCache(wheel, lock.version, folder, display) };
  } finally {
    display.stop();
  }
}

/** Downloads and unpacks the wheel, unless another process finishes doing so first. */
async function fetchIntoCache(
  wheel: LockedWheel,
  version: string,
  folder: string,
  display: ProgressDisplay,
): Promise<'cache' | 'downloaded'> {
  // Two that start in the same instant both download: wasteful, yet right, since the folder appears by one rename.
  const start = Date.now();
  while (Date.now() - start < patience && (await isBeingFilled(folder))) {
    display.show({ phase: 'wait', doneBytes: 0, totalBytes: 0 });
    await sleep(500);
  }
  if (await isCached(folder, wheel)) return 'cache';
  const unpacked = Object.values(wheel.libraries).reduce((sum, { bytes }) => sum + bytes, 0);
  await fillCache(folder, wheel, async (staging, libraries) => {
    const download = (doneBytes: number) => display.show({ phase: 'download', doneBytes, totalBytes: wheel.bytes });
    const extract = (doneBytes: number) => display.show({ phase: 'extract', doneBytes, totalBytes: unpacked });
    download(0);
    const path = await downloadWheel(wheel, version, staging, download);
    await extractLibraries(path, wheel, libraries, extract);
  });
  return 'downloaded';
}

/** A TensorFlow of exactly the pinned version that Python has installed. */
async function installedLibrary(
  lock: TensorFlowLock,
  variant: TensorFlowVariant,
): Promise<TensorFlowLibrary | undefined> {
  const wheels = lock.wheels[hostPlatform()];
  // A cuda build serves a request for cpu, not the other way round.
  const wanted = (variant === 'cpu' ? (['cpu', 'cuda'] as const) : (['cuda'] as const)).filter(
    (name) => wheels?.[name],
  );
  const found = await installedTensorFlow(wanted.map((name) => wheels[name]!.package));
  for (const name of wanted) {
    for (const { package: pipPackage, version, folder } of found) {
      if (pipPackage !== wheels[name]!.package || version !== lock.version || missingLibraries(folder).length > 0)
        continue;
      return { ...libraryPaths(folder), version, variant: name, source: 'installed' };
    }
  }
  return undefined;
}

/** @throws UserError when the folder is none or lacks a shared object */
function configuredLibrary(folder: string, variant: TensorFlowVariant): TensorFlowLibrary {
  const missing = missingLibraries(folder);
  if (missing.length === 0) return { ...libraryPaths(folder), version: undefined, variant, source: 'configured' };
  const nested = join(folder, 'tensorflow');
  const problem = !existsSync(folder)
    ? 'it does not exist'
    : !statSync(folder).isDirectory()
      ? 'it is a file, expected a folder'
      : `it lacks ${missing.join(' and ')}`;
  throw new UserError(
    `BLOCKWISE_TENSORFLOW: cannot use ${folder}: ${problem}.\n  What to do: ` +
      (missingLibraries(nested).length === 0
        ? `set it to ${nested}, which holds the library.`
        : `set it to a folder that holds ${Object.values(libraryNames()).join(' and ')} of TensorFlow ${tensorFlowLock.version} ` +
          "(the folder `tensorflow` of an unpacked wheel or of Python's site-packages), or unset it to let Blockwise fetch them."),
  );
}

function libraryPaths(folder: string): { frameworkPath: string; ccPath: string } {
  const { framework, cc } = libraryNames();
  return { frameworkPath: join(folder, framework), ccPath: join(folder, cc) };
}

function missingLibraries(folder: string): string[] {
  return Object.values(libraryNames()).filter((name) => !existsSync(join(folder, name)));
}
