import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';

/** Vitest's global set-up: temporary files of all tests, and of what they start, go into one folder, which is removed in the end. */
export default function setUp(): () => void {
  const folder = mkdtempSync(join(tmpdir(), 'blockwise-tests-'));
  process.env.TMPDIR = folder;
  return () => rmSync(folder, { recursive: true, force: true });
}
