import { lstat, readdir } from 'node:fs/promises';
import { join } from 'node:path';

/** All files beneath a folder, as paths relative to it with `/` between the parts. */
export async function listFolder(folder: string): Promise<string[]> {
  const names = await readdir(folder, { recursive: true });
  const found = await Promise.all(names.map((name) => lstat(join(folder, name))));
  return names.filter((_, i) => !found[i].isDirectory()).map((name) => name.replaceAll('\\', '/'));
}
