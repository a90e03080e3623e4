import { createHash } from 'node:crypto';
import { closeSync, fstatSync, openSync, readdirSync, readSync } from 'node:fs';
import { join } from 'node:path';

const sampleBytes = 16 * 1024;
const samples = 256;

/**
 * SHA-256 of what tells one model from another: names and sizes of its config.json and safetensors files, and of each file 256 stretches of 16
 * KiB, evenly spread: all of a small file; of a large one enough to notice other weights, in milliseconds.
 */
export function baseDigest(folder: string): string {
  const hash = createHash('sha256');
  const names = readdirSync(folder).filter((name) => name === 'config.json' || name.endsWith('.safetensors'));
  for (const name of names.sort()) {
    const file = openSync(join(folder, name), 'r');
    try {
      const { size } = fstatSync(file);
      hash.update(`${name} ${size}\n`);
      const every = Math.max(sampleBytes, Math.ceil(size / samples));
      const bytes = Buffer.alloc(sampleBytes);
      for (let at = 0; at < size; at += every)
        hash.update(bytes.subarray(0, readSync(file, bytes, 0, sampleBytes, at)));
    } finally {
      closeSync(file);
    }
  }
  return hash.digest('hex');
}
