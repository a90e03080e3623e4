import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { initTensorFlow } from '@blockwise/tensorflow';
import { afterAll, beforeEach, describe, expect, test } from 'vitest';

import { llamaTiedWeights, llamaWeightShapes } from './config.ts';
import { readLlamaConfig } from './config-file.ts';
import { readSafetensorsHeader, writeSafetensors } from './safetensors.ts';
import type { WritableTensor } from './safetensors.ts';
import { areEqual, matchWeights, openWeights, readEntries, saveWeights } from './weights.ts';
import { haveStories, stories } from './stories.test-support.ts';

const root = mkdtempSync(join(tmpdir(), 'weights-'));
afterAll(() => rmSync(root, { recursive: true }));
let folder: string;
beforeEach(() => void (folder = mkdtempSync(join(root, 'model-'))));

function tensors(sizes: Record<string, number>): [string, WritableTensor][] {
  return Object.entries(sizes).map(([name, size], i) => [
    name,
    { dtype: 'uint8', shape: [size], bytes: () => new Uint8Array(size).fill(i + 1) },
  ]);
}

function firstByte(name: string): number {
  const { file, offset } = readEntries(folder).get(name)!;
  return readFileSync(file)[offset]!;
}

function writeIndex(weight_map: unknown): void {
  writeFileSync(
    join(folder, 'model.safetensors.index.json'),
    JSON.stringify({ metadata: { total_size: 1 }, weight_map }),
  );
}

describe('saving', () => {
  test('makes one file when everything fits', async () => {
    await saveWeights(folder, tensors({ a: 10, b: 20 }), { maxShardBytes: 30 });
    expect(readdirSync(folder)).toEqual(['model.safetensors']);
    expect(firstByte('b')).toBe(2);
  });

  test('makes shards with an index as transformers names them', async () => {
    const written = await saveWeights(folder, tensors({ b: 10, a: 20, c: 25, d: 100, e: 1 }), { maxShardBytes: 30 });
    expect(written.map((path) => path.slice(folder.length + 1))).toEqual([
      'model-00001-of-00004.safetensors',
      'model-00002-of-00004.safetensors',
      'model-00003-of-00004.safetensors',
      'model-00004-of-00004.safetensors',
      'model.safetensors.index.json',
    ]);
    expect(JSON.parse(readFileSync(written[4]!, 'utf8'))).toEqual({
      metadata: { total_size: 156 },
      weight_map: {
        a: 'model-00001-of-00004.safetensors',
        b: 'model-00001-of-00004.safetensors',
        c: 'model-00002-of-00004.safetensors',
        d: 'model-00003-of-00004.safetensors',
        e: 'model-00004-of-00004.safetensors',
      },
    });
    expect(readEntries(folder).size).toBe(5);
    expect(firstByte('d')).toBe(4);
  });

  test('replaces a model saved before, whatever its number of files, and touches nothing else', async () => {
    writeFileSync(join(folder, 'tokenizer.json'), '{}');
    writeFileSync(join(folder, 'adapter_model.safetensors'), '');
    for (const maxShardBytes of [10, 100, 20]) {
      const paths = await saveWeights(folder, tensors({ a: 10, b: 10, c: 10 }), { maxShardBytes });
      const others = ['adapter_model.safetensors', 'tokenizer.json'];
      expect(readdirSync(folder).sort()).toEqual(
        [...paths.map((path) => path.slice(folder.length + 1)), ...others].sort(),
      );
    }
  });

  test('keeps the older model when a tensor of a later shard fails', async () => {
    await saveWeights(folder, tensors({ a: 10, b: 10 }));
    const failing: WritableTensor = {
      dtype: 'uint8',
      shape: [10],
      bytes: () => {
        throw new Error('disposed');
      },
    };
    const attempt = saveWeights(folder, [...tensors({ x: 10 }), ['y', failing]], { maxShardBytes: 10 });
    await expect(attempt).rejects.toThrow('disposed');
    expect([...readEntries(folder).keys()]).toEqual(['a', 'b']);
    expect(readdirSync(folder)).toEqual(['model.safetensors']);
  });

  test('refuses one name twice', async () => {
    await expect(saveWeights(folder, [...tensors({ a: 1 }), ...tensors({ a: 1 })])).rejects.toThrow(
      'internal: a is saved twice',
    );
  });
});

describe('opening', () => {
  test.each([
    '../other/model.safetensors',
    '/etc/model.safetensors',
    '..\\model.safetensors',
    '.hidden.safetensors',
    'model.bin',
    7,
  ])('refuses the shard name %j', (shard) => {
    writeIndex({ a: shard });
    expect(() => readEntries(folder)).toThrow(
      `found ${JSON.stringify(shard)}, expected the name of a .safetensors file in the same folder`,
    );
  });

  test('names every shard and tensor that the index promises and the folder lacks', async () => {
    await writeSafetensors(join(folder, 'one.safetensors'), tensors({ a: 1 }));
    writeIndex({ a: 'one.safetensors', b: 'one.safetensors', c: 'two.safetensors' });
    expect(() => readEntries(folder)).toThrow(
      /index\.json: 2 problems\n {2}- weight_map: two\.safetensors is not in the folder; download it\n {2}- weight_map: b is not in one\.safetensors/,
    );
  });

  test('says in seconds that thousands of weights are missing and thousands too many', () => {
    const names = (count: number, name: string) => Array.from({ length: count }, (_, i) => `model.layers.${i}.self_attn.${name}.weight`); // prettier-ignore
    const entries = new Map(names(8000, 'x_proj').map((name) => [name, { dtype: 'float32' as const, shape: [0] }]));
    const expected = new Map(names(8000, 'y_proj').map((name) => [name, [1]]));
    const start = performance.now(); // 9,000 against 4,000 took 21 s
    expect(() => matchWeights(expected, { folder, entries })).toThrow('and 7950 more like these');
    expect(performance.now() - start).toBeLessThan(10_000);
  });

  test('refuses an index without a weight_map', () => {
    writeIndex(['a']);
    expect(() => readEntries(folder)).toThrow('weight_map: found ["a"], expected an object of weight name to file');
  });

  test('says to convert a pickled model', () => {
    writeFileSync(join(folder, 'pytorch_model-00001-of-00002.bin'), '');
    expect(() => readEntries(folder)).toThrow(
      /found pytorch_model-00001-of-00002\.bin, a pickle.*expected model\.safetensors\. Convert it once in Python/,
    );
  });

  test('says what is expected where there is nothing', () => {
    expect(() => readEntries(folder)).toThrow(
      `${folder}: no weights; expected model.safetensors, or model.safetensors.index.json`,
    );
    expect(() => readEntries(join(folder, 'x'))).toThrow('no such folder; expected a model in Hugging Face layout');
    mkdirSync(join(folder, 'model.safetensors'));
    expect(() => readEntries(folder)).toThrow('expected a safetensors file, found a folder');
  });

  test.skipIf(!haveStories)('gives tensors over the file, equal to its bytes', async () => {
    await initTensorFlow();
    const weights = openWeights(stories);
    const entry = weights.entries.get('model.norm.weight')!;
    const norm = weights.tensor('model.norm.weight');
    weights.close();
    const file = readFileSync(join(stories, 'model.safetensors'));
    expect(norm.shape).toEqual([64]);
    expect(Buffer.from(norm.bytes())).toEqual(file.subarray(entry.offset, entry.offset + 256));
    norm.dispose();
    expect(() => weights.tensor('model.norm.bias')).toThrow('internal: ');
  });

  test('compares stored weights to their last byte, their dtype and their shape', async () => {
    const size = 2 ** 20 + 1; // more than one piece
    const last = new Uint8Array(size).fill(7, -1);
    const tensor = (bytes: Uint8Array, shape = [size], dtype: 'uint8' | 'int8' = 'uint8'): WritableTensor => ({
      ...{ dtype, shape, bytes: () => bytes },
    });
    const zeros = new Uint8Array(size);
    await saveWeights(folder, [
      ...Object.entries({ a: tensor(zeros), same: tensor(zeros), last: tensor(last) }),
      ...Object.entries({ other: tensor(zeros, [size], 'int8'), row: tensor(zeros, [1, size]) }),
    ]);
    const entries = readEntries(folder);
    const equalToA = [...entries.keys()].filter((name) => areEqual(entries.get('a')!, entries.get(name)!));
    expect(equalToA.sort()).toEqual(['a', 'same']);
  });

  test.skipIf(!haveStories)('reads back a real model that was written again, in one file and in shards', async () => {
    const source = readFileSync(join(stories, 'model.safetensors'));
    const original = readEntries(stories);
    const copies = [...original].map(([name, { dtype, shape, offset, byteLength }]): [string, WritableTensor] => [
      name,
      { dtype, shape, bytes: () => source.subarray(offset, offset + byteLength) },
    ]);
    for (const maxShardBytes of [5e9, 300_000]) {
      await saveWeights(folder, copies, { maxShardBytes });
      const entries = readEntries(folder);
      expect(entries.size).toBe(original.size);
      for (const [name, { dtype, shape, offset, byteLength }] of original) {
        const copy = entries.get(name)!;
        expect(copy).toMatchObject({ dtype, shape, byteLength });
        expect(copy.offset % 64, name).toBe(0);
        const bytes = readFileSync(copy.file).subarray(copy.offset, copy.offset + byteLength);
        expect(bytes.equals(source.subarray(offset, offset + byteLength)), name).toBe(true);
      }
    }
    expect(readSafetensorsHeader(join(folder, 'model-00001-of-00004.safetensors')).metadata).toEqual({ format: 'pt' });
  });
});

describe('matching', () => {
  const expected = new Map([
    ['model.embed_tokens.weight', [8, 4]],
    ['model.norm.weight', [4]],
  ]);
  const found = (...weights: [string, number[], ('float32' | 'int8')?][]): Parameters<typeof matchWeights>[1] => ({
    folder: '/models/x',
    entries: new Map(weights.map(([name, shape, dtype = 'float32']) => [name, { shape, dtype }])),
  });
  const tied = [['lm_head.weight', 'model.embed_tokens.weight']] as const;

  test('lists missing, unexpected, mis-shaped and unusable weights in one error', () => {
    const weights = found(['model.norms.weight', [4]], ['model.embed_tokens.weight', [4, 8], 'int8']);
    expect(() => matchWeights(expected, weights)).toThrow(
      [
        '/models/x: the weights do not fit config.json: 4 problems',
        '  - missing model.norm.weight [4]; did you mean model.norms.weight?',
        '  - unexpected model.norms.weight [4]',
        '  - model.embed_tokens.weight: found shape [4, 8], expected [8, 4] by config.json',
        '  - model.embed_tokens.weight: found int8, expected float32, bfloat16, float16',
      ].join('\n'),
    );
  });

  test('shortens long lists', () => {
    const many = new Map(Array.from({ length: 60 }, (_, i) => [`w${i}`, [1]]));
    expect(() => matchWeights(many, found())).toThrow(
      /51 problems\n[^]*missing w49 \[1\]\n {2}- and 10 more like these$/,
    );
  });

  test('prints no name as it stands that a terminal would obey, and no endless shape', () => {
    const weights = found(['\u001b[2J', Array<number>(1000).fill(1)], ['model.norm.weight', [4]]);
    expect(() => matchWeights(new Map([['model.norm.weight', [4]]]), weights)).toThrow(
      /unexpected "\\u001b\[2J" \[1, 1[1, ]+\.\.\.$/,
    );
  });

  test('ignores buffers that follow from the config', () => {
    const weights = found(
      ['model.embed_tokens.weight', [8, 4]],
      ['model.norm.weight', [4]],
      ['model.layers.0.self_attn.rotary_emb.inv_freq', [2]],
    );
    expect(matchWeights(expected, weights)).toEqual(new Map([...expected.keys()].map((name) => [name, name])));
  });

  test('takes a tied weight under either name or both', () => {
    const norm: [string, number[]] = ['model.norm.weight', [4]];
    const embedding: [string, number[]] = ['model.embed_tokens.weight', [8, 4]];
    const head: [string, number[]] = ['lm_head.weight', [8, 4]];
    const source = (...weights: [string, number[]][]): string | undefined =>
      matchWeights(expected, found(norm, ...weights), { tied }).get('model.embed_tokens.weight');
    expect(source(embedding)).toBe('model.embed_tokens.weight');
    expect(source(head)).toBe('lm_head.weight');
    expect(source(embedding, head)).toBe('model.embed_tokens.weight');
    expect(() => matchWeights(expected, found(norm, embedding, head))).toThrow('unexpected lm_head.weight [8, 4]');
  });

  test.skipIf(!haveStories)('finds a real model complete', () => {
    const { config, warnings } = readLlamaConfig(stories);
    const expectedShapes = llamaWeightShapes(config);
    const weights = { folder: stories, entries: readEntries(stories) };
    expect(matchWeights(expectedShapes, weights, { tied: llamaTiedWeights(config) }).size).toBe(47);
    expect(warnings).toEqual([]);
  });
});
