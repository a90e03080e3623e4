import type { DownloadProgress, HubOptions } from '@blockwise/loaders';
import { join } from 'node:path';
import type { Options } from './options.ts';

/** Where the hub's files are kept, and lines about a download that takes more than a moment. */
export function hubOptions({ cacheDir }: Pick<Options, 'cacheDir'>, note: (line: string) => void): HubOptions {
  return { ...(cacheDir ? { cacheDir: join(cacheDir, 'hub') } : {}), onProgress: downloadNotes(note) };
}

/** Milliseconds from one line to the next. */
const interval = 5000;

/** @param now milliseconds; for tests */
export function downloadNotes(
  note: (line: string) => void,
  now = () => performance.now(),
): (progress: DownloadProgress) => void {
  let last = now();
  let told: string | undefined;
  return ({ repo, receivedBytes, totalBytes }) => {
    const isEnd = receivedBytes >= totalBytes && told === repo;
    if (!isEnd && now() - last < interval) return;
    note(`downloading ${repo}: ${megabytes(receivedBytes)} of ${megabytes(totalBytes)} MB`);
    [last, told] = [now(), isEnd ? undefined : repo];
  };
}

const megabytes = (bytes: number) => Math.ceil(bytes / 1e6).toLocaleString('en-US');
