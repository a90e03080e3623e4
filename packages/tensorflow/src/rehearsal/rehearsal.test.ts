import * as tf from '@tensorflow/tfjs-core';
import { closeSync, mkdtempSync, openSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { attribute } from '../attributes.ts';
import { compile } from '../compile.ts';
import { dtypes } from '../dtypes.ts';
import { initTensorFlow, liveTensors } from '../init.ts';
import { MappedFile } from '../mapped-file.ts';
import { matMul2d, operation } from '../operations.ts';
import { RawTensor } from '../raw-tensor.ts';
import { currentRuntime } from '../current-runtime.ts';
import { Variable } from '../variable.ts';
import { Buffers } from './buffers.ts';
import { runCall } from './compiled-call.ts';
import { MemoryPool } from './memory-pool.ts';
import { rehearse } from './rehearsal.ts';

const MiB = 2 ** 20;

/** A pool with one free region, all of it written. */
function withRegion(bytes: number): MemoryPool {
  const pool = new MemoryPool();
  pool.release(pool.allocate(bytes));
  return pool;
}

describe('MemoryPool, by the rules of bfc_allocator.cc', () => {
  it('keeps what was written resident after it is freed, and uses it again', () => {
    const pool = new MemoryPool();
    const first = pool.allocate(10 * MiB);
    expect(pool.resident).toBe(10 * MiB);
    pool.release(first);
    pool.allocate(6 * MiB);
    expect(pool.resident).toBe(10 * MiB);
  });

  it('counts what the allocator writes down of its regions: 8 bytes for 256', () => {
    const pool = new MemoryPool();
    pool.allocate(MiB); // a region of 2 MiB
    expect(pool.bookkeeping).toBe((8 / 256) * 2 * MiB);
  });

  it('puts two halves together again when both are free', () => {
    const pool = withRegion(8 * MiB);
    const halves = [pool.allocate(4 * MiB), pool.allocate(4 * MiB)];
    halves.forEach((half) => pool.release(half));
    pool.allocate(8 * MiB);
    expect(pool.resident).toBe(8 * MiB);
  });

  it('cannot use two free stretches with a used one between them for what neither holds', () => {
    const pool = withRegion(8 * MiB);
    const [a, , c] = [pool.allocate(3 * MiB), pool.allocate(MiB), pool.allocate(4 * MiB)];
    pool.release(a);
    pool.release(c);
    pool.allocate(7 * MiB); // 3 and 4 MiB are free, apart: it lies in a new region
    expect(pool.resident).toBe((8 + 7) * MiB);
  });

  it('gives a chunk less than twice the size whole, whose rest stays unwritten', () => {
    const pool = new MemoryPool();
    pool.allocate(1.5 * MiB); // of a first region of 2 MiB: not split
    pool.allocate(0.4 * MiB);
    expect(pool.resident).toBe(Math.ceil((1.9 * MiB) / 4096) * 4096);
  });

  it('counts small allocations by their most', () => {
    const pool = new MemoryPool();
    const one = pool.allocate(1000);
    pool.release(one);
    pool.allocate(400);
    expect(pool.resident).toBe(1000);
  });
});

it("places a kernel's results before its scratch memory, as XLA does", () => {
  const buffers = new Buffers();
  buffers.pool.release(buffers.pool.allocate(8 * MiB));
  const result = { dtype: dtypes.float32.code, shape: [MiB / 2], bytes: 2 * MiB };
  const kernel = { type: 'Kernel', inputs: [], outputs: [1], after: [], scratch: 3 * MiB };
  const plan = { inputs: [], outputs: [1], nodes: [kernel], symbols: new Map([[1, result]]) };
  runCall(plan, [], buffers, { workers: 1, choose: () => 0 });
  buffers.create(6 * MiB); // finds room above the result
  expect(buffers.pool.resident).toBe(8 * MiB);
});

describe('rehearse', () => {
  beforeAll(() => initTensorFlow());

  /** Bytes resident after `body`. */
  const bytesOf = (body: () => void | Promise<void>) =>
    rehearse(async (memory) => {
      await body();
      return memory().resident;
    });

  it('yields results of the right shapes and zeros, and takes no handles along', async () => {
    const before = liveTensors();
    await rehearse(async () => {
      const a = tf.fill([300, 200], 2);
      const y = matMul2d(a, a, false, true);
      expect(y.shape).toEqual([300, 300]);
      expect([...(await y.data()).subarray(0, 2)]).toEqual([0, 0]);
      tf.dispose([a, y]);
    });
    expect(liveTensors()).toBe(before);
  });

  it('counts what operations allocate: a result beside its input', async () => {
    const bytes = await bytesOf(() => {
      const a = tf.fill([1024, 1024], 1);
      const b = tf.sqrt(a);
      tf.dispose([a, b]);
    });
    expect(bytes).toBe(8 * MiB);
  });

  it('counts what decompositions take from malloc, a matrix for each core at a time', async () => {
    const matrix = 4 * 256 * 256;
    const bytesFor = (batch: number) =>
      bytesOf(() => {
        const a = tf.zeros([batch, 256, 256]);
        const attributes = [attribute.bool('full_matrices', false), attribute.type('T', dtypes.float32.code)];
        tf.dispose([a, ...operation('Qr', attributes, [a])]);
      });
    const [q, r, copies] = [1, 1, 4];
    expect(await bytesFor(1)).toBe((1 + q + r + copies) * matrix);
    const cores = Math.min(8, availableParallelism());
    expect(await bytesFor(8)).toBe(8 * (1 + q + r) * matrix + cores * copies * matrix);
  });

  it('takes the place of a dead input in a compiled function, not of one that is still needed', async () => {
    const chain = compile('chain', (x) => [tf.neg(tf.exp(tf.sqrt(x as tf.Tensor)))]);
    const branch = compile('branch', (x) => {
      const root = tf.sqrt(x as tf.Tensor);
      return [tf.matMul(tf.exp(root) as tf.Tensor2D, root as tf.Tensor2D)];
    });
    for (const [fn, tensors] of [
      [chain, 2],
      [branch, 4],
    ] as const) {
      const bytes = await bytesOf(async () => {
        const x = tf.fill([1024, 1024], 1);
        const [y] = await fn.async(x);
        tf.dispose([x, y]);
        fn.dispose();
      });
      expect(bytes).toBe(tensors * 4 * MiB);
    }
  });

  it('counts what a compiled function does twice once, as TensorFlow runs it', async () => {
    const bytesWith = (other: (x: tf.Tensor) => tf.Tensor) =>
      bytesOf(async () => {
        const fn = compile('twice', (x) => [matMul2d(tf.exp(x as tf.Tensor), other(x as tf.Tensor))]);
        const x = tf.fill([1024, 1024], 1);
        tf.dispose([x, ...(await fn.async(x))]);
        fn.dispose();
      });
    expect(await bytesWith((x) => tf.exp(x))).toBe(3 * 4 * MiB); // x, exp(x) and the product
    expect(await bytesWith((x) => tf.sqrt(x))).toBe(4 * 4 * MiB);
  });

  it('counts a mapped weight apart, while a tensor looks at it', async () => {
    const path = join(mkdtempSync(join(tmpdir(), 'blockwise-rehearsal-')), 'weight.bin');
    writeFileSync(path, new Uint8Array(8 * MiB));
    const file = MappedFile.open(path);
    await rehearse(async (memory) => {
      const weight = file.tensor(0, [4096, 1024], 'bfloat16');
      expect(memory()).toMatchObject({ mapped: 8 * MiB, resident: 0 });
      weight.dispose();
      expect(memory().mapped).toBe(0);
    });
    file.close();
    rmSync(dirname(path), { recursive: true });
  });

  it('updates variables in place, and copies where somebody reads', async () => {
    const update = (reading: boolean) =>
      bytesOf(() => {
        const start = tf.fill([1024, 1024], 1);
        const variable = new Variable(start);
        start.dispose();
        const read = reading ? variable.read() : undefined;
        const delta = tf.fill([1024, 1024], 1);
        variable.subtract(delta);
        delta.dispose();
        read?.dispose();
        variable.dispose();
      });
    expect(await update(false)).toBe(8 * MiB);
    expect(await update(true)).toBe(12 * MiB);
  });

  it('writes holes in place of values, and keeps no large ones that JavaScript made', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'blockwise-rehearsal-'));
    const path = join(folder, 'values.bin');
    await bytesOf(() => {
      const bytes = new Uint8Array(20 * MiB).fill(1);
      const values = RawTensor.fromBytes(bytes, [bytes.length], 'uint8');
      const few = RawTensor.fromBytes(bytes.subarray(0, MiB), [MiB], 'uint8');
      expect([values.bytes()[0], few.bytes()[0]]).toEqual([0, 1]);
      const file = openSync(path, 'w');
      currentRuntime().write(values.id, file);
      closeSync(file);
      [values, few].forEach((tensor) => tensor.dispose());
    });
    const { size, blocks } = statSync(path);
    expect(size).toBe(20 * MiB);
    expect(512 * blocks).toBeLessThan(MiB);
    rmSync(folder, { recursive: true });
  });

  it('leaves compiled functions to be traced anew where they are really called', async () => {
    const twice = compile('twice', (x) => [tf.add(x as tf.Tensor, x as tf.Tensor)]);
    await bytesOf(() => {
      const x = tf.fill([600, 600], 3);
      tf.dispose([x, ...twice(x)]);
    });
    const x = tf.fill([600, 600], 3);
    const [y] = twice(x);
    expect((await y.data())[0]).toBe(6);
    tf.dispose([x, y]);
    twice.dispose();
  });
});
