import { UserError } from '@blockwise/errors';
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { HubApiError } from '@huggingface/hub';
import { isAlive } from './is-alive.ts';

/** One file of a hub repository: its size in bytes and the checksum that the hub lists for it. */
export interface HubBlob {
  /** What messages call it: `file of org/name`. */
  label: string;
  size: number;
  /** SHA-256 for files under Git LFS, else the git blob id (SHA-1 over `blob <size>\0` and the content). */
  checksum: { algorithm: 'sha256' | 'git-sha1'; hex: string };
  /** Opens the remote content; called again for each new connection, since signed addresses expire. */
  open: () => Promise<Blob>;
}

let claims = 0;

/**
 * Downloads `blob` into `blobPath` (`.../blobs/<checksum>`), which appears only when it is complete and its checksum is right.
 *
 * What arrives is kept beside it in `<checksum>.incomplete`; a later call continues there by an HTTP range. While it is being
 * written the partial file carries the process in its name, so two processes never write into one file, and the partial of a
 * killed process is taken over. A connection that breaks after bringing bytes is resumed at once.
 *
 * @param onBytes told the change in bytes present (negative when a damaged partial is dropped)
 * @throws UserError when the connection brings nothing more (the partial is kept) or the checksum is wrong (it is removed)
 */
export async function downloadBlob(
  blob: HubBlob,
  blobPath: string,
  onBytes: (bytes: number) => void = () => {},
): Promise<void> {
  await mkdir(dirname(blobPath), { recursive: true });
  const partial = await claimPartial(blobPath, blob.size);
  try {
    const resumed = await sizeOf(partial);
    onBytes(resumed);
    await fill(partial, blob, onBytes);
    let found = await checksumOf(partial, blob);
    if (found !== blob.checksum.hex && resumed > 0) {
      // The kept part may be the damaged one: once more from the first byte.
      await rm(partial);
      onBytes(-blob.size);
      await fill(partial, blob, onBytes);
      found = await checksumOf(partial, blob);
    }
    if (found !== blob.checksum.hex) {
      await rm(partial);
      throw new UserError(
        `${blob.label}: the ${blob.checksum.algorithm} of what arrived is ${found}, the hub lists ${blob.checksum.hex}. ` +
          'The file was removed. Run again; if it stays so, a proxy or mirror (HF_ENDPOINT) changes the content.',
      );
    }
    await rename(partial, blobPath);
  } finally {
    // Hand an unfinished partial back under the name that the next attempt looks for.
    await rename(partial, `${blobPath}.incomplete`).catch(() => {});
  }
}

/** Appends to `partial` until it holds `blob.size` bytes. */
async function fill(partial: string, blob: HubBlob, onBytes: (bytes: number) => void): Promise<void> {
  const file = await open(partial, 'a');
  try {
    let received = (await file.stat()).size;
    while (received < blob.size) {
      const before = received;
      let reason = 'the connection was closed';
      try {
        const remote = await blob.open();
        for await (const chunk of remote.slice(received, blob.size).stream() as unknown as AsyncIterable<Uint8Array>) {
          await file.write(chunk);
          received += chunk.byteLength;
          onBytes(chunk.byteLength);
          if (received > blob.size) break; // the checksum will tell
        }
      } catch (error) {
        // The hub's own answer (no access, gone) is explained by the caller.
        if (received === before && (error instanceof HubApiError || error instanceof UserError)) throw error;
        reason = describeCause(error);
      }
      if (received === before) {
        throw new UserError(
          `${blob.label}: the download stopped at ${received} of ${blob.size} bytes (${reason}). ` +
            'What arrived is kept: run again to continue.',
        );
      }
    }
    await file.sync();
  } finally {
    await file.close();
  }
}

/** The name under which this process may write: an earlier partial taken over by an atomic rename, else a new file. */
async function claimPartial(blobPath: string, size: number): Promise<string> {
  const prefix = `${basename(blobPath)}.`;
  const mine = `${blobPath}.${process.pid}-${++claims}.incomplete`;
  for (const name of await readdir(dirname(blobPath))) {
    if (!name.startsWith(prefix) || !name.endsWith('incomplete')) continue;
    const owner = /^(\d+)-\d+\.incomplete$/.exec(name.slice(prefix.length))?.[1];
    if (owner !== undefined && isAlive(Number(owner))) continue;
    try {
      await rename(join(dirname(blobPath), name), mine);
    } catch {
      continue; // another process was quicker
    }
    if ((await sizeOf(mine)) <= size) break;
    await rm(mine);
  }
  return mine;
}

async function checksumOf(path: string, blob: HubBlob): Promise<string> {
  const hash = createHash(blob.checksum.algorithm === 'sha256' ? 'sha256' : 'sha1');
  if (blob.checksum.algorithm === 'git-sha1') hash.update(`blob ${await sizeOf(path)}\0`);
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

async function sizeOf(path: string): Promise<number> {
  return stat(path).then(
    (found) => found.size,
    () => 0,
  );
}

/** The innermost reason: fetch says "fetch failed" and keeps the cause (refused, reset, unknown host) beneath. */
export function describeCause(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause as { code?: string; message?: string } | undefined;
  return cause?.code ?? cause?.message ?? error.message;
}
