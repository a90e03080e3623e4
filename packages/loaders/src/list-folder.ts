import { readdir } from 'node:fs/promises';
import { join, relative } from 'node:path';

/** All files beneath a folder, as paths relative to it with `/` between the parts. */
export async function listFolder(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => !entry.isDirectory()).map((entry) => join(entry.parentPath, entry.name));
  return files.map((path) => relative(folder, path).replaceAll('\\', '/'));
}
