import { UserError } from '@blockwise/errors';
import process from 'node:process';
import locked from './tensorflow.lock.json' with { type: 'json' };

/** Builds of TensorFlow: `cpu` runs anywhere, `cuda` also drives NVIDIA GPUs (and runs on the CPU where there is none). */
export type TensorFlowVariant = 'cpu' | 'cuda';

/** A file known by content: SHA-256 in lowercase hexadecimal, size in bytes. */
export interface LockedFile {
  sha256: string;
  bytes: number;
}

/** One wheel of the lock, with the tags pip needs to find it from any machine and any Python. */
export interface LockedWheel extends LockedFile {
  /** Name of the package for pip. */
  package: string;
  filename: string;
  /** pip's --platform, --python-version and --abi. */
  platformTag: string;
  pythonVersion: string;
  abi: string;
  /** The shared objects inside the wheel's folder `tensorflow/`, by their file names. */
  libraries: Record<string, LockedFile>;
}

/** The TensorFlow this package is made for: one version, wheels by `<process.platform>-<process.arch>` and variant. */
export interface TensorFlowLock {
  version: string;
  wheels: Record<string, Partial<Record<TensorFlowVariant, LockedWheel>>>;
}

/**
 * The pinned wheels. To move to another version, download each wheel with the command that `pipArguments` (download-wheel.ts) builds,
 * and record sha256 and size of the wheel and of its two shared objects.
 */
export const tensorFlowLock: TensorFlowLock = locked;

/** File names of the two shared objects on this system, the one to load first in front. */
export function libraryNames(system: string = process.platform): { framework: string; cc: string } {
  return system === 'darwin'
    ? { framework: 'libtensorflow_framework.2.dylib', cc: 'libtensorflow_cc.2.dylib' }
    : { framework: 'libtensorflow_framework.so.2', cc: 'libtensorflow_cc.so.2' };
}

/** This machine as the lock names it, for example `linux-x64`. */
export function hostPlatform(): string {
  return `${process.platform}-${process.arch}`;
}

/** `-musl` on a Linux without glibc (Alpine), where no published wheel loads; costs 40 ms, so ask only when about to fetch. */
export function libcSuffix(): string {
  if (process.platform !== 'linux') return '';
  const report = process.report.getReport() as { header?: { glibcVersionRuntime?: string } };
  return report.header?.glibcVersionRuntime ? '' : '-musl';
}

/**
 * The wheel for a platform and variant.
 * @throws UserError when TensorFlow publishes none, naming those that exist
 */
export function lockedWheel(lock: TensorFlowLock, platform: string, variant: TensorFlowVariant): LockedWheel {
  const wheel = lock.wheels[platform]?.[variant];
  if (wheel) return wheel;
  const supported = Object.entries(lock.wheels).map(
    ([name, variants]) => `${name} (${Object.keys(variants).join(', ')})`,
  );
  throw new UserError(
    `TensorFlow ${lock.version} has no ready-made ${variant} library for ${platform}.\n` +
      `  Supported: ${supported.join(', ')}.\n` +
      `  What to do: ${advice(lock, platform, variant)}`,
  );
}

function advice(lock: TensorFlowLock, platform: string, variant: TensorFlowVariant): string {
  if (lock.wheels[platform])
    return `ask for the ${Object.keys(lock.wheels[platform]).join(' or ')} variant instead of ${variant}.`;
  if (platform.startsWith('win32')) return 'run under WSL 2, which is linux-x64.';
  const { framework, cc } = libraryNames(platform.split('-')[0]);
  return (
    `use one of these systems (a container will do), or build TensorFlow ${lock.version} yourself and set ` +
    `BLOCKWISE_TENSORFLOW to the folder that holds ${framework} and ${cc}.`
  );
}
