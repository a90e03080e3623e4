import { mkdtempSync, readdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, it, vi } from 'vitest';
import { crc32c, openTensorBoard } from './tensorboard.ts';

afterEach(() => void vi.useRealTimers());

/**
 * tensorboard 2.21.0's own RecordWriter and messages (protobuf 7.36.2), wall_time 1735787045.25: Event(file_version),
 * Event(step=301, session_log START), Event(step=301, summary of train/loss 1.25 and train/learning_rate 0.001).
 */
const golden =
  '1800000000000000a37f4b22090000508980ddd9411a0d627261696e2e4576656e743a32049e8787100000000000000095fbfe18090000508980ddd94110ad023a020801bd6d16873d000000000000006049f1ec090000508980ddd94110ad022a2f0a110a0a747261696e2f6c6f7373150000a03f0a1a0a13747261696e2f6c6561726e696e675f72617465156f12833a3790b7b7';

it("writes the bytes that TensorBoard's own writer writes", () => {
  vi.useFakeTimers({ toFake: ['Date'], now: 1735787045250 });
  const folder = join(mkdtempSync(join(tmpdir(), 'blockwise-events-')), 'logs');
  const writer = openTensorBoard(folder, 300);
  writer.scalars(301, { 'train/loss': 1.25, 'train/learning_rate': 0.001 });
  writer.close();
  const [name, ...others] = readdirSync(folder);
  expect(others).toEqual([]);
  expect(name).toMatch(/^events\.out\.tfevents\.1735787045\./);
  expect(readFileSync(join(folder, name!)).toString('hex')).toBe(golden);
});

it("computes CRC-32C as in RFC 3720's examples", () => {
  expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
  expect(crc32c(new Uint8Array(32).fill(0xff))).toBe(0x62a8ab43);
  expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i))).toBe(0x46dd794e);
});
