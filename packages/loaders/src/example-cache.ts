import { createHash, randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Example } from './examples.ts';

/** What a cache file holds: the examples and the counts of what tokenising left out. */
export interface CachedExamples {
  examples: Example[];
  counts: Record<string, number>;
}

/**
 * The file is: 8 bytes of magic; sha256 of all that follows (32 bytes); then little-endian int32s: byte length of the
 * counts' JSON (padded with spaces to a multiple of 4), that JSON, number of examples N, N lengths, all input ids,
 * all labels.
 */
const magic = Buffer.from('bwtoken1', 'latin1');
const headBytes = magic.length + 32;
/** Node reads no larger file at once; a dataset of more (some 250 million tokens) goes without a cache. */
const largestFile = 2 ** 31 - 1;

/** Writes the cache file aside, then renames it: it is complete or absent. Where it cannot be written, a warning says so. */
export function writeExamples(path: string, { examples, counts }: CachedExamples): void {
  const json = JSON.stringify(counts);
  const header = Buffer.from(json.padEnd(Math.ceil(json.length / 4) * 4), 'latin1');
  const tokens = examples.reduce((sum, { inputIds }) => sum + inputIds.length, 0);
  const bodyBytes = 4 + header.length + 4 + 4 * examples.length + 8 * tokens;
  if (headBytes + bodyBytes > largestFile) return;
  const body = Buffer.alloc(bodyBytes);
  let at = body.writeInt32LE(header.length, 0);
  at += header.copy(body, at);
  at = body.writeInt32LE(examples.length, at);
  for (const { inputIds } of examples) at = body.writeInt32LE(inputIds.length, at);
  for (const part of ['inputIds', 'labels'] as const) {
    for (const example of examples) {
      for (const value of example[part]) at = body.writeInt32LE(value, at);
    }
  }
  const contents = Buffer.concat([magic, createHash('sha256').update(body).digest(), body]);
  const aside = `${path}.${randomUUID()}.part`;
  try {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(aside, contents);
    renameSync(aside, path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    console.warn(
      `warning: ${dirname(path)}: tokenised data cannot be kept there (${code}), so the next run tokenises again; set --cache_dir to a folder that can be written`,
    );
    if (existsSync(aside)) rmSync(aside);
  }
}

/** Reads a cache file; undefined when it is missing, cut short or altered, so that the caller builds it anew. */
export function readExamples(path: string): CachedExamples | undefined {
  if (!existsSync(path)) return undefined;
  const file = readFileSync(path);
  const body = file.subarray(headBytes);
  const digest = file.subarray(magic.length, headBytes);
  if (!file.subarray(0, magic.length).equals(magic)) return undefined;
  if (!createHash('sha256').update(body).digest().equals(digest)) return undefined;
  // From here on the digest vouches for the layout.
  const headerBytes = body.readInt32LE(0);
  const counts = JSON.parse(body.toString('latin1', 4, 4 + headerBytes)) as Record<string, number>;
  const rest = body.subarray(4 + headerBytes);
  const values = Int32Array.from({ length: rest.length / 4 }, (_, i) => rest.readInt32LE(4 * i));
  const n = values[0]!;
  const lengths = values.subarray(1, 1 + n);
  const tokens = lengths.reduce((sum, length) => sum + length, 0);
  let at = 1 + n;
  const examples = Array.from(lengths, (length) => {
    const example = {
      inputIds: values.subarray(at, at + length),
      labels: values.subarray(at + tokens, at + tokens + length),
    };
    at += length;
    return example;
  });
  return { examples, counts };
}
