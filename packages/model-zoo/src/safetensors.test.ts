import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, describe, expect, test } from 'vitest';

import { seededRandom } from './random.ts';
import { readSafetensorsHeader, writeHollowSafetensors, writeSafetensors } from './safetensors.ts';
import type { WritableTensor } from './safetensors.ts';

const folder = mkdtempSync(join(tmpdir(), 'safetensors-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** tools/golden/safetensors_file.py: a file of the official package. */
const golden = JSON.parse(readFileSync(new URL('golden/safetensors.json', import.meta.url), 'utf8')) as {
  metadata: Record<string, string>;
  tensors: Record<string, { dtype: string; shape: number[]; bytes: string }>;
  file: string;
};
const official = Buffer.from(golden.file, 'base64');

function fileOf(content: Uint8Array): string {
  const path = join(folder, 'case.safetensors');
  writeFileSync(path, content);
  return path;
}

/** A file with this header text, then `dataBytes` zeros. */
function withHeader(header: unknown, dataBytes: number): string {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return fileOf(Buffer.concat([length, json, Buffer.alloc(dataBytes)]));
}

function contents(path: string): Record<string, { dtype: string; shape: readonly number[]; bytes: string }> {
  const file = readFileSync(path);
  return Object.fromEntries(
    [...readSafetensorsHeader(path).entries].map(([name, { dtype, shape, offset, byteLength }]) => [
      name,
      { dtype, shape, bytes: file.subarray(offset, offset + byteLength).toString('hex') },
    ]),
  );
}

function tensor(dtype: WritableTensor['dtype'], shape: number[], bytes: Uint8Array): WritableTensor {
  return { dtype, shape, bytes: () => bytes };
}

test('reads what the official package wrote, every dtype', () => {
  const path = fileOf(official);
  expect(readSafetensorsHeader(path).metadata).toEqual(golden.metadata);
  expect(contents(path)).toEqual(golden.tensors);
});

describe('writing', () => {
  test('gives back the same tensors, and leaves no partial file', async () => {
    const path = join(folder, 'out', '..', 'written.safetensors');
    const source = Object.entries(golden.tensors).map(
      ([name, { dtype, shape, bytes }]) =>
        [name, tensor(dtype as 'float32', shape, Buffer.from(bytes, 'hex'))] as const,
    );
    await writeSafetensors(path, source, golden.metadata);
    expect(contents(path)).toEqual(golden.tensors);
    expect(readSafetensorsHeader(path).metadata).toEqual(golden.metadata);
    expect(readdirSync(folder).filter((name) => name.includes('partial'))).toEqual([]);
  });

  test('says of another failure than the file what it is: reading a tensor may want more memory than there is', async () => {
    const path = join(folder, 'unwritten.safetensors');
    const failure = Object.assign(new Error('no memory'), { code: 'RESOURCE_EXHAUSTED' });
    const broken = { ...tensor('float32', [1], new Uint8Array(4)), bytes: () => { throw failure; } }; // prettier-ignore
    await expect(writeSafetensors(path, [['w', broken]])).rejects.toBe(failure);
    await expect(writeSafetensors(join(folder, 'absent', 'w'), [])).rejects.toThrow('cannot be written (ENOENT)');
  });

  test('makes hollow files of any iterable, one that can be read once too', async () => {
    const path = join(folder, 'hollow.safetensors');
    await writeHollowSafetensors(path, new Map([['w', tensor('float32', [4], new Uint8Array())]]).entries());
    expect(contents(path)).toEqual({ w: { dtype: 'float32', shape: [4], bytes: '00'.repeat(16) } });
  });

  test('puts every tensor whose size allows it at a multiple of 64 bytes, and all elements at multiples of their size', async () => {
    const path = join(folder, 'aligned.safetensors');
    await writeSafetensors(path, [
      ['odd.u8', tensor('uint8', [3], new Uint8Array(3))],
      ['big.bf16', tensor('bfloat16', [3, 32], new Uint8Array(192))],
      ['odd.f32', tensor('float32', [5], new Uint8Array(20))],
      ['odd.i64', tensor('int64', [1], new Uint8Array(8))],
      ['big.f32', tensor('float32', [16], new Uint8Array(64))],
    ]);
    const { entries, metadata } = readSafetensorsHeader(path);
    expect(metadata).toEqual({ format: 'pt' });
    expect([...entries.keys()]).toEqual(['big.bf16', 'big.f32', 'odd.i64', 'odd.f32', 'odd.u8']);
    const offsets = [...entries.values()].map(({ offset }) => offset);
    expect(offsets.slice(0, 3).map((offset) => offset % 64)).toEqual([0, 0, 0]);
    expect(offsets[3]! % 4).toBe(0);
  });

  test('takes the bytes of one tensor at a time, in the order of the file', async () => {
    const taken: string[] = [];
    const counted = (name: string, size: number): readonly [string, WritableTensor] => [
      name,
      { dtype: 'uint8', shape: [size], bytes: () => (taken.push(name), new Uint8Array(size)) },
    ];
    await writeSafetensors(join(folder, 'counted.safetensors'), [counted('small', 1), counted('large', 128)]);
    expect(taken).toEqual(['large', 'small']);
  });

  test('leaves the older file when a tensor fails half way', async () => {
    const path = join(folder, 'kept.safetensors');
    writeFileSync(path, official);
    const failing: WritableTensor = {
      dtype: 'uint8',
      shape: [64],
      bytes: () => {
        throw new Error('disposed');
      },
    };
    await expect(
      writeSafetensors(path, [
        ['a', tensor('uint8', [64], new Uint8Array(64))],
        ['b', failing],
      ]),
    ).rejects.toThrow('disposed');
    expect(readFileSync(path)).toEqual(official);
    expect(readdirSync(folder).filter((name) => name.includes('partial'))).toEqual([]);
  });

  test('names the folder that is not there', async () => {
    const path = join(folder, 'absent', 'model.safetensors');
    await expect(writeSafetensors(path, [])).rejects.toThrow(
      `${path}: cannot be written (ENOENT); is its folder there`,
    );
  });

  test('refuses bytes that do not fit the shape, and two tensors of one name', async () => {
    const path = join(folder, 'wrong.safetensors');
    await expect(writeSafetensors(path, [['a', tensor('float32', [2], new Uint8Array(4))]])).rejects.toThrow(
      'internal: a has 4 bytes',
    );
    const twice = ['a', tensor('uint8', [1], new Uint8Array(1))] as const;
    await expect(writeSafetensors(path, [twice, twice])).rejects.toThrow('internal: two tensors of one name');
  });
});

describe('a broken file', () => {
  const f32 = (shape: unknown, begin: unknown, end: unknown): object => ({
    dtype: 'F32',
    shape,
    data_offsets: [begin, end],
  });
  const cases: [string, () => string, string][] = [
    ['is empty', () => fileOf(new Uint8Array(0)), 'it has 0 bytes, fewer than the 8'],
    [
      'claims a header beyond its end',
      () => fileOf(official.subarray(0, 300)),
      'claims 704 bytes, but the whole file has 300',
    ],
    [
      'claims a header beyond 100 MB',
      () => fileOf(Buffer.alloc(16, 0xff)),
      'more than the 100000000 the format allows',
    ],
    [
      'is an HTML page',
      () => fileOf(Buffer.from('<!DOCTYPE html><html>')),
      'more than the 100000000 the format allows',
    ],
    ['has a header that is not JSON', () => withHeader('{"a": ', 0), 'its header is not JSON'],
    ['has a list for a header', () => withHeader('[]', 0), 'its header is not a JSON object'],
    ['nests without end', () => withHeader('['.repeat(1000), 0), 'nests deeper than any safetensors header'],
    ['is cut short', () => withHeader({ a: f32([2], 0, 8) }, 4), 'the file is cut short: expected'],
    [
      'goes on after its tensors',
      () => withHeader({ a: f32([2], 0, 8) }, 9),
      'the file is longer than its tensors: expected',
    ],
    [
      'has a hole',
      () => withHeader({ a: f32([1], 0, 4), b: f32([1], 8, 12) }, 12),
      'b: begins at byte 8 of the data and leaves a hole before it, expected 4',
    ],
    [
      'has a hole at the start',
      () => withHeader({ a: f32([1], 4, 8) }, 8),
      'a: begins at byte 4 of the data and leaves a hole before it, expected 0',
    ],
    [
      'has overlaps',
      () => withHeader({ a: f32([2], 0, 8), b: f32([1], 4, 8) }, 8),
      'b: begins at byte 4 of the data and overlaps',
    ],
    [
      'has a tensor twice',
      () =>
        withHeader(
          '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\\u0061":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
          1,
        ),
      'the header lists "a" twice',
    ],
    [
      'has a field twice',
      () => withHeader('{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', 1),
      'the header lists "dtype" twice',
    ],
    [
      'has an unknown dtype',
      () => withHeader({ a: { dtype: 'F8_E4M3', shape: [1], data_offsets: [0, 1] } }, 1),
      'a: dtype "F8_E4M3" is not supported, expected one of F64, F32',
    ],
    [
      'names a property of every object as dtype',
      () => withHeader({ a: { dtype: 'toString', shape: [1], data_offsets: [0, 1] } }, 1),
      'a: dtype "toString" is not supported',
    ],
    [
      'has a shape that does not fit',
      () => withHeader({ a: f32([3], 0, 8) }, 8),
      'a: F32 [3] takes 12 bytes, but data_offsets span 8',
    ],
    [
      'has a shape that overflows',
      () => withHeader({ a: f32([2 ** 40, 2 ** 40], 0, 8) }, 8),
      'takes more than 2^53 bytes',
    ],
    [
      'has more dimensions than numbers can count, and none of the last',
      () => withHeader({ a: f32([...Array<number>(100).fill(Number.MAX_SAFE_INTEGER), 0], 0, 0) }, 0),
      'takes more than 2^53 bytes',
    ],
    [
      'has a name that a terminal would obey',
      () => withHeader({ '\u001b[2J\u009b1m': f32([3], 0, 8) }, 8),
      '"\\u001b[2J\\u009b1m": F32 [3] takes',
    ],
    ['has a negative size', () => withHeader({ a: f32([-1], 0, 4) }, 4), 'a: shape [-1] is not a list of sizes'],
    [
      'has offsets the wrong way round',
      () => withHeader({ a: f32([1], 4, 0) }, 4),
      'a: data_offsets [4,0] are not [begin, end]',
    ],
    [
      'has fractional offsets',
      () => withHeader({ a: f32([1], 0.5, 4.5) }, 5),
      'a: data_offsets [0.5,4.5] are not [begin, end]',
    ],
    [
      'has no offsets',
      () => withHeader({ a: { dtype: 'F32', shape: [1] } }, 4),
      'a: data_offsets nothing are not [begin, end]',
    ],
    ['has a number for a tensor', () => withHeader({ a: 1 }, 0), 'a: expected {dtype, shape, data_offsets}, found 1'],
    [
      'has metadata that are not strings',
      () => withHeader({ __metadata__: { step: 1 } }, 0),
      '__metadata__: expected an object of strings',
    ],
  ];
  test.each(cases)('that %s is refused with its path and the reason', (_, make, message) => {
    const path = make();
    expect(() => readSafetensorsHeader(path)).toThrow(path);
    expect(() => readSafetensorsHeader(path)).toThrow(message);
  });

  test('that is not UTF-8 is refused', () => {
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(2n);
    expect(() => readSafetensorsHeader(fileOf(Buffer.concat([length, Buffer.from([0xc3, 0x28])])))).toThrow(
      'its header is not UTF-8',
    );
  });

  test('that is absent or a folder is refused', () => {
    expect(() => readSafetensorsHeader(join(folder, 'none'))).toThrow(
      /none: cannot be opened \(ENOENT\); expected a safetensors file/,
    );
    expect(() => readSafetensorsHeader(folder)).toThrow('expected a safetensors file, found a folder or device');
  });

  test('gives all of its problems in one error', () => {
    const path = withHeader({ a: 1, b: f32([3], 0, 8), c: f32([-1], 0, 8) }, 8);
    expect(() => readSafetensorsHeader(path)).toThrow(/3 problems\n {2}- a: .*\n {2}- b: .*\n {2}- c: .*/);
  });

  test('is refused in a short message, however many of its tensors are wrong and however long their names are', () => {
    const dimensions = Array<number>(1000).fill(Number.MAX_SAFE_INTEGER);
    const names = Array.from({ length: 1000 }, (_, i) => `${i}`.padStart(1000, 'x'));
    const path = withHeader(Object.fromEntries(names.map((name) => [name, f32(dimensions, 0, 8)])), 8);
    let message = '';
    try {
      readSafetensorsHeader(path);
    } catch (error) {
      message = (error as Error).message;
    }
    expect(message).toMatch(/\n {2}- and 950 more like these$/);
    expect(message.length).toBeLessThan(20_000);
  });

  test('cut anywhere is refused, never misread', () => {
    for (let length = 0; length < official.length; length++) {
      const path = fileOf(official.subarray(0, length));
      expect(() => readSafetensorsHeader(path), `${length} bytes`).toThrow(
        expect.objectContaining({ name: 'UserError' }),
      );
    }
  });

  test('with characters of its header changed is refused or read within its bounds', () => {
    const random = seededRandom(1);
    const pick = (count: number): number => Math.floor(random() * count);
    const outcomes = { read: 0, refused: 0 };
    const dataStart = 8 + Number(official.readBigUInt64LE());
    for (let round = 0; round < 1000; round++) {
      const mutated = Buffer.from(official);
      // Mostly characters of the header's own grammar; one in eight any byte anywhere before the data, the length included.
      if (pick(8) === 0) mutated[pick(dataStart)] = pick(256);
      else mutated[8 + pick(dataStart - 8)] = '0123456789",:[]{}FIU'.charCodeAt(pick(20));
      const path = fileOf(mutated);
      try {
        expect(spansCover(path, mutated)).toBe(true);
        outcomes.read++;
      } catch (error) {
        expect(error).toMatchObject({ name: 'UserError' });
        outcomes.refused++;
      }
    }
    console.log(`changed headers: ${outcomes.refused} refused, ${outcomes.read} still valid`);
    expect(Math.min(outcomes.read, outcomes.refused)).toBeGreaterThan(20);
  });
});

/** Whether the tensors read lie end to end from the header to the end of the file. */
function spansCover(path: string, content: Buffer): boolean {
  let end = 8 + Number(content.readBigUInt64LE());
  for (const { offset, byteLength } of readSafetensorsHeader(path).entries.values()) {
    if (offset !== end) return false;
    end += byteLength;
  }
  return end === content.length;
}
