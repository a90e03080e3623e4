import { readFileSync } from 'node:fs';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, describe, expect, test } from 'vitest';
import { compile, initTensorFlow, MemoryMeter, readMemory, resetPeakMemory, tf } from './index.ts';

beforeAll(() => initTensorFlow());

const hundredMegabytes = 25e6; // elements

/** Allocates and frees 100 MB inside one operation: the fill is summed where it is made. */
const transient = compile('transient', (x) => [
  tf
    .fill([hundredMegabytes], 1)
    .mul(x as tf.Tensor)
    .sum(),
]);

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

describe.skipIf(process.platform !== 'linux')('peaks', () => {
  test('start anew after resetPeakMemory()', () => {
    const x = tf.fill([hundredMegabytes], 1);
    x.dispose();
    const before = readMemory();
    expect(resetPeakMemory()).toBe(true);
    const after = readMemory();
    expect(before.peakResident - after.peakResident).toBeGreaterThan(50e6);
    expect(after.peakResident - after.resident).toBeLessThan(5e6);
  });

  test('of memory that lives only during a long call are seen by a MemoryMeter', async () => {
    const one = tf.scalar(1);
    resetPeakMemory();
    const before = readMemory();
    const meter = new MemoryMeter(1);
    for (let i = 0; i < 10; i++) {
      const [sum] = await transient.async(one);
      expect(sum.dataSync()[0]).toBe(hundredMegabytes);
      sum.dispose();
    }
    const peaks = meter.stop();
    expect(peaks.peakResident - before.resident).toBeGreaterThan(90e6);
    expect(peaks.peakAnonymous! - before.anonymous!).toBeGreaterThan(50e6);
    expect(readMemory().anonymous! - before.anonymous!).toBeLessThan(50e6);
    // Stopped: it samples no more.
    const held = tf.fill([2 * hundredMegabytes], 1);
    await sleep(20);
    expect(peaks.peakAnonymous! - before.anonymous!).toBeLessThan(220e6);
    [held, one].forEach((x) => x.dispose());
    transient.dispose();
  });
});
