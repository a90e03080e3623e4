import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** Real data beside the checkout; tests that need it skip themselves, with this reason, where it is missing. */
export const sharedData =
  process.env.BLOCKWISE_DATA ?? fileURLToPath(new URL('../../../../shared/data', import.meta.url));

/** Whether a file or folder of the shared data is there; says so when it is not. */
export function hasShared(path: string): boolean {
  const found = existsSync(`${sharedData}/${path}`);
  if (!found)
    console.warn(`skipped: ${sharedData}/${path} is missing (set BLOCKWISE_DATA to the folder of shared data)`);
  return found;
}

/** The path of a golden file or folder of this package. */
export function goldenPath(name: string): string {
  return fileURLToPath(new URL(`./golden/${name}`, import.meta.url));
}

export function readGolden<T>(name: string): T {
  return JSON.parse(readFileSync(goldenPath(name), 'utf8')) as T;
}
