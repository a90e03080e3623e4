import { closeSync, mkdtempSync, openSync, readdirSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  cast,
  compile,
  initTensorFlow,
  liveTensors,
  MappedFile,
  matMul2d,
  Parameter,
  readMemory,
  tf,
} from './index.ts';

const folder = mkdtempSync(join(tmpdir(), 'blockwise-mapped-'));
const path = join(folder, 'weights.bin');
const side = 1024;
const matrices = 150; // of 2 MiB each in bfloat16

beforeAll(async () => {
  await initTensorFlow();
  const file = openSync(path, 'w');
  for (let i = 0; i < matrices; i++) writeSync(file, matrixBytes(i));
  closeSync(file);
});
afterAll(() => rmSync(folder, { recursive: true }));

/** Matrix i as bfloat16: its rows are 0, 1, 2, ... 7, 0, ... plus i, which bfloat16 holds exactly. */
function matrixBytes(i: number): Uint8Array {
  const row = new Uint16Array(side * side);
  for (let r = 0; r < side; r++) row.fill(bfloat16((r % 8) + i), r * side, (r + 1) * side);
  return new Uint8Array(row.buffer);
}
const bfloat16 = (value: number) => new Uint32Array(Float32Array.of(value).buffer)[0] >>> 16;
const matrix = (file: MappedFile, i: number) => file.tensor(i * 2 * side * side, [side, side], 'bfloat16');

describe('a mapped file', () => {
  test('gives the values at any offset, aligned or not', () => {
    const small = join(folder, 'small.bin');
    writeFileSync(small, new Uint8Array(Float32Array.from({ length: 64 }, (_, i) => i / 4).buffer));
    const file = MappedFile.open(small);
    expect(file.byteLength).toBe(256);
    for (const [offset, length] of [
      [0, 64],
      [64, 48], // aligned
      [20, 3], // copied by TensorFlow
      [256, 0],
    ]) {
      const tensor = file.tensor(offset, [length], 'float32');
      const values = cast(tensor);
      expect(Array.from(values.dataSync())).toEqual(Array.from({ length }, (_, i) => (offset / 4 + i) / 4));
      [tensor, values].forEach((x) => x.dispose());
    }
    file.close();
  });

  test.skipIf(process.platform !== 'linux')(
    'of 300 MB takes no anonymous memory, mapped or used inside a compiled function, and drop() gives its pages back',
    () => {
      const file = MappedFile.open(path);
      const use = compile('use', (weight, x) => [matMul2d(x as tf.Tensor, cast(weight))] as [tf.Tensor2D]);
      const x = tf.ones([1, side]);
      // All alive at once: were they copied, it would show.
      const before = readMemory();
      const weights = Array.from({ length: matrices }, (_, i) => matrix(file, i));
      expect(readMemory().anonymous! - before.anonymous!).toBeLessThan(10e6);
      const columnSum = (i: number) => {
        const [y] = use(weights[i], x);
        const sum = y.dataSync()[i];
        y.dispose();
        return sum;
      };
      // What the function itself allocates (one float32 matrix at a time) settles before it counts.
      for (let i = 0; i < 60; i++) columnSum(0);
      const settled = readMemory();
      const sums = weights.map((_, i) => columnSum(i));
      // The sum of a column: 128 cycles of 0..7, plus i in each of 1,024 rows.
      expect(sums).toEqual(weights.map((_, i) => 128 * 28 + side * i));
      const after = readMemory();
      expect(after.anonymous! - settled.anonymous!).toBeLessThan(10e6);
      expect(after.fileBacked! - settled.fileBacked!).toBeGreaterThan(250e6);
      file.drop();
      expect(after.fileBacked! - readMemory().fileBacked!).toBeGreaterThan(250e6);
      expect(columnSum(matrices - 1)).toBe(sums[matrices - 1]); // the pages come back from the file
      [...weights, x].forEach((tensor) => tensor.dispose());
      use.dispose();
      file.close();
    },
  );

  test('lives until it is closed and its last tensor is disposed', () => {
    const file = MappedFile.open(path);
    const before = liveTensors();
    const [a, b] = [matrix(file, 1), matrix(file, 2)];
    file.close();
    a.dispose();
    expect(Array.from(b.bytes().subarray(0, 2))).toEqual([0, 0x40]); // bfloat16 2.0
    expect(() => matrix(file, 0)).toThrow(`${path} is closed`);
    b.dispose();
    b.dispose();
    file.close();
    file.drop(); // nothing left to drop
    expect(liveTensors()).toBe(before);
  });

  test.skipIf(process.platform !== 'linux')('gives back the pages of a disposed tensor, and those alone', () => {
    const file = MappedFile.open(path);
    const weights = Array.from({ length: matrices }, (_, i) => matrix(file, i));
    for (const weight of weights) cast(weight).dispose();
    const read = readMemory().fileBacked!;
    weights.slice(0, 100).forEach((weight) => weight.dispose());
    const given = read - readMemory().fileBacked!;
    expect(given).toBeGreaterThan(200e6);
    expect(given).toBeLessThan(215e6); // 100 of 2 MiB
    expect(weights[120].bytes().subarray(0, 2)).toEqual(matrixBytes(120).subarray(0, 2));
    weights.forEach((weight) => weight.dispose());
    file.close();
  });

  test('stays whole where a part that is no whole page is dropped', () => {
    const file = MappedFile.open(path);
    file.drop(100, 10_000);
    const weight = matrix(file, 0);
    expect(Buffer.compare(weight.bytes(), matrixBytes(0))).toBe(0);
    weight.dispose();
    file.close();
  });

  test('refuses what reaches past its end', () => {
    const file = MappedFile.open(path);
    const size = file.byteLength;
    expect(() => file.tensor(size - 2, [2], 'bfloat16')).toThrow(
      `${path}: 4 bytes at ${size - 2} reach past the file's ${size}`,
    );
    for (const [offset, shape] of [
      [-64, [1]],
      [0.5, [1]],
      [NaN, [1]],
      [0, [-1, -1]],
      [0, [1.5]],
    ] as const)
      expect(() => file.tensor(offset, shape, 'bfloat16')).toThrow('have to be whole numbers from 0');
    expect(() => file.drop(0, size + 4096)).toThrow(`${size + 4096} bytes at 0 reach past the file's ${size}`);
    file.close();
  });

  test.skipIf(process.platform !== 'linux')('streamed, takes memory only while a parameter over it is in use', () => {
    const path = join(folder, 'streamed.bin');
    writeFileSync(path, new Uint8Array(100e6));
    const file = MappedFile.open(path);
    const parameter = new Parameter('w', file.tensor(0, [50e6], 'bfloat16', { streamed: true }));
    file.close();
    const before = readMemory().fileBacked!;
    const values = parameter.acquire();
    tf.tidy(() => {
      expect(tf.sum(cast(values)).dataSync()[0]).toBe(0);
    });
    expect(readMemory().fileBacked! - before).toBeGreaterThan(90e6);
    parameter.release(values);
    expect(readMemory().fileBacked! - before).toBeLessThan(10e6);
    parameter.dispose();
  });

  test.skipIf(process.platform !== 'linux')(
    'streamed, a weight that was trained goes to a nameless file, not to memory',
    () => {
      const path = join(folder, 'trained.bin');
      writeFileSync(path, new Uint8Array(50e6));
      const file = MappedFile.open(path);
      const parameter = new Parameter('w', file.tensor(0, [25e6], 'bfloat16', { streamed: true }));
      file.close();
      parameter.activate();
      const two = tf.fill([25e6], 2);
      parameter.master!.assign(two);
      two.dispose();
      const temporary = () => readdirSync(tmpdir()).filter((name) => name.startsWith(`blockwise-${process.pid}-`));
      parameter.deactivate();
      expect(temporary()).toEqual([]);
      const values = parameter.acquire();
      expect(values).toMatchObject({ dtype: 'bfloat16', shape: [25e6] });
      tf.tidy(() => {
        expect(tf.min(cast(values)).dataSync()[0]).toBe(2);
      });
      const before = readMemory().fileBacked!;
      parameter.release(values);
      expect(before - readMemory().fileBacked!).toBeGreaterThan(40e6);
      parameter.activate();
      tf.tidy(() => {
        expect(tf.max(parameter.master!.read()).dataSync()[0]).toBe(2);
      });
      parameter.dispose();
    },
  );

  test('that is empty or absent cannot be opened', () => {
    const empty = join(folder, 'empty.bin');
    writeFileSync(empty, '');
    expect(() => MappedFile.open(empty)).toThrow(`${empty} is empty: nothing to map`);
    expect(() => MappedFile.open(join(folder, 'absent.bin'))).toThrow('ENOENT');
  });
});
