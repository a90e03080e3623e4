import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { beforeAll, describe, expect, test } from 'vitest';
import { cast, compile, initTensorFlow, MappedFile, MemoryMeter, readMemory, resetPeakMemory, tf } from './index.ts';

beforeAll(() => initTensorFlow());

const hundredMegabytes = 25e6; // elements

describe('readMemory', () => {
  test('reports bytes: resident now and at the peak', () => {
    const { resident, peakResident } = readMemory();
    // libtensorflow alone is more than 100 MB.
    expect(resident).toBeGreaterThan(100e6);
    expect(peakResident).toBeGreaterThanOrEqual(resident);
    expect(Math.abs(resident - process.memoryUsage.rss())).toBeLessThan(50e6);
  });

  test.skipIf(process.platform !== 'linux')('splits the resident set into anonymous and file-backed', () => {
    const { resident, anonymous, fileBacked } = readMemory();
    const shared = 1024 * Number(/^RssShmem:\s+(\d+)/m.exec(readFileSync('/proc/self/status', 'latin1'))![1]);
    expect(Math.abs(anonymous! + fileBacked! + shared - resident)).toBeLessThan(1e6);
    const x = tf.fill([hundredMegabytes], 1);
    const after = readMemory();
    expect(after.anonymous! - anonymous!).toBeGreaterThan(95e6);
    expect(Math.abs(after.fileBacked! - fileBacked!)).toBeLessThan(20e6);
    x.dispose();
  });
});

test.skipIf(process.platform !== 'linux')('loading TensorFlow gives back the pages that only loading needed', () => {
  // 300 MB of the library's 850 are touched by the dynamic linker.
  expect(readMemory().fileBacked).toBeLessThan(180e6);
});

describe.skipIf(process.platform !== 'linux')('peaks', () => {
  test('start anew after resetPeakMemory()', () => {
    // Pages of a file leave when they are dropped; TensorFlow's allocator keeps what it frees.
    const folder = mkdtempSync(join(tmpdir(), 'blockwise-memory-'));
    writeFileSync(join(folder, 'file.bin'), new Uint8Array(100e6));
    resetPeakMemory();
    const file = MappedFile.open(join(folder, 'file.bin'));
    const tensor = file.tensor(0, [100e6], 'uint8');
    tf.tidy(() => cast(tensor));
    tensor.dispose();
    file.close();
    rmSync(folder, { recursive: true });
    const before = readMemory();
    expect(before.peakResident - before.resident).toBeGreaterThan(90e6);
    expect(resetPeakMemory()).toBe(true);
    const after = readMemory();
    expect(after.peakResident - after.resident).toBeLessThan(5e6);
  });

  test('of a long call are seen by a MemoryMeter while it runs', async () => {
    // More than any test before allocated. The product lives inside the call alone.
    const side = 12250;
    const elements = side * side;
    const f = compile('transient', (x) => [tf.min(tf.matMul(x as tf.Tensor2D, x as tf.Tensor2D, false, true))]);
    const column = tf.fill([side, 1], Math.SQRT2);
    const before = readMemory();
    const meter = new MemoryMeter(1);
    const [least] = await f.async(column);
    const peaks = meter.stop();
    expect(least.dataSync()[0]).toBeCloseTo(2, 5);
    expect(peaks.peakResident - before.resident).toBeGreaterThan(3.9 * elements);
    expect(peaks.peakAnonymous! - before.anonymous!).toBeGreaterThan(3 * elements);
    expect(peaks.peakFileBacked).toBeGreaterThan(40e6); // node, and what libtensorflow uses
    [least, column].forEach((x) => x.dispose());
    f.dispose();
  });
});
