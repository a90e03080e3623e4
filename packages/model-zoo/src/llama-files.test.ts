import { cast, initTensorFlow, liveTensors, readMemory, tf } from '@blockwise/tensorflow';
import { createHash } from 'node:crypto';
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  realpathSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { llamaWeightShapes, type LlamaConfig, type WeightDtype } from './config.ts';
import { llamaConfigJson } from './config-file.ts';
import { openLlama, saveLlama } from './llama-files.ts';
import type { Llama } from './llama.ts';
import type { WritableTensor } from './safetensors.ts';
import { noise, tinyLlama, tinyLlamaConfig } from './tiny-llama.test-support.ts';
import { readEntries, saveWeights } from './weights.ts';
import { haveStories, stories } from './stories.test-support.ts';

const root = mkdtempSync(join(tmpdir(), 'llama-files-'));
afterAll(() => rmSync(root, { recursive: true }));
let folder: string;
let before: number;
beforeAll(() => initTensorFlow());
beforeEach(() => {
  folder = mkdtempSync(join(root, 'model-'));
  before = liveTensors();
});
/** Holds after every test, errors included: what was opened is disposed, what failed left nothing. */
afterEach(() => expect(liveTensors()).toBe(before));

const dtypes: WeightDtype[] = ['float32', 'bfloat16', 'float16'];

/** SHA-256 of each weight's bytes. */
const digests = (model: Llama) => digestsOf(model.parameters);
const digestsOf = (tensors: Iterable<[string, { bytes(): Uint8Array }]>) =>
  new Map([...tensors].map(([name, x]) => [name, createHash('sha256').update(x.bytes()).digest('hex')]));
const valuesOf = (model: Llama, name: string) =>
  tf.tidy(() => cast(model.parameters.get(name)!.acquire()).dataSync() as Float32Array);

/** Saves a small model to `folder` and returns the digests of its weights. */
async function save(settings: Partial<LlamaConfig> = {}, dtype: WeightDtype = 'float32') {
  const model = tinyLlama(settings, dtype);
  await saveLlama(folder, { model, json: llamaConfigJson(model.config) });
  const bytes = digests(model);
  model.dispose();
  return bytes;
}

describe('a saved Llama', () => {
  describe.each([false, true])('with a tied head: %s', (tie_word_embeddings) => {
    it.each(dtypes)('in %s opens with the same bits and config', async (dtype) => {
      const settings = { tie_word_embeddings, attention_bias: true, dtype };
      const bytes = await save(settings, dtype);
      const { model, warnings } = openLlama(folder);
      expect(digests(model)).toEqual(bytes);
      expect([...model.parameters.values()].map(({ storageDtype }) => storageDtype)).toEqual(
        Array(bytes.size).fill(dtype),
      );
      expect(model.parameters.has('lm_head.weight')).toBe(!tie_word_embeddings);
      expect({ config: model.config, warnings }).toEqual({ config: tinyLlamaConfig(settings), warnings: [] });
      expect(readdirSync(folder).sort()).toEqual(['config.json', 'model.safetensors']);
      model.dispose();
    });
  });

  it('says in config.json how its weights are stored, whatever the file it came from said', async () => {
    await save({ dtype: 'float32' }, 'bfloat16');
    expect(JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'))).toMatchObject({ torch_dtype: 'bfloat16' });
  });

  it('can replace the folder it was opened from, with weights still mapped from it', async () => {
    const bytes = await save();
    const opened = openLlama(folder);
    await saveLlama(folder, opened, folder);
    expect(digests(opened.model)).toEqual(bytes);
    opened.model.dispose();
    const { model } = openLlama(folder);
    expect(digests(model)).toEqual(bytes);
    model.dispose();
  });

  it('holds masters of trained weights, rounded to nearest', async () => {
    const model = tinyLlama({}, 'bfloat16');
    const norm = model.parameters.get('model.norm.weight')!;
    norm.activate();
    // bfloat16 keeps 8 bits of significand: 1 + 2^-8 is half way (to even: 1), 1 + 3 * 2^-9 is nearer to 1 + 2^-7.
    tf.tidy(() => norm.master!.assign(tf.tensor1d(Array.from({ length: 16 }, (_, i) => 1 + (i % 2 ? 3 * 2 ** -9 : 2 ** -8))))); // prettier-ignore
    await saveLlama(folder, { model, json: llamaConfigJson(model.config) });
    expect(norm.master).toBeDefined();
    model.dispose();
    const { model: reopened } = openLlama(folder);
    expect([...valuesOf(reopened, 'model.norm.weight').subarray(0, 2)]).toEqual([1, 1 + 2 ** -7]);
    reopened.dispose();
  });

  it('takes tokenizer files along, and nothing else', async () => {
    const source = join(folder, 'source');
    mkdirSync(source);
    const files = ['tokenizer.json', 'chat_template.jinja', 'generation_config.json'];
    for (const name of [...files, 'training_args.bin', 'pytorch_model.bin'])
      writeFileSync(join(source, name), `contents of ${name}`);
    const model = tinyLlama();
    const target = join(folder, 'deep', 'target'); // made where missing
    await saveLlama(target, { model, json: llamaConfigJson(model.config) }, source);
    model.dispose();
    expect(readdirSync(target).sort()).toEqual([...files, 'config.json', 'model.safetensors'].sort());
    for (const name of files) expect(readFileSync(join(target, name), 'utf8')).toBe(`contents of ${name}`);
  });

  it('keeps the older model where saving fails half way', async () => {
    const bytes = await save();
    const broken = tinyLlama({}, 'float32', 2);
    broken.parameters.get('model.norm.weight')!.dispose();
    await expect(saveLlama(folder, { model: broken, json: {} })).rejects.toThrow();
    broken.dispose();
    const { model } = openLlama(folder);
    expect(digests(model)).toEqual(bytes);
    expect(readdirSync(folder).sort()).toEqual(['config.json', 'model.safetensors']);
    model.dispose();
  });
});

describe('openLlama', () => {
  it('converts weights to the dtype it is asked for', async () => {
    await save();
    const name = 'model.layers.1.mlp.up_proj.weight';
    const exact = openLlama(folder).model;
    const values = valuesOf(exact, name);
    exact.dispose();
    const significandBits = { bfloat16: 8, float16: 11 };
    for (const dtype of ['bfloat16', 'float16'] as const) {
      const { model } = openLlama(folder, { dtype });
      expect(new Set([...model.parameters.values()].map(({ storageDtype }) => storageDtype))).toEqual(new Set([dtype]));
      const half = 2 ** -significandBits[dtype]; // rounding to nearest, relative to the power of two below
      valuesOf(model, name).forEach((rounded, i) => {
        const unit = Math.max(2 ** Math.floor(Math.log2(Math.abs(values[i]))), 2 ** -14);
        expect(Math.abs(rounded - values[i])).toBeLessThanOrEqual(half * unit);
      });
      model.dispose();
    }
  });

  it('converts 16-bit weights to float32 and back without a change', async () => {
    for (const dtype of ['bfloat16', 'float16'] as const) {
      const bytes = await save({}, dtype);
      const wide = openLlama(folder, { dtype: 'float32' });
      await saveLlama(folder, wide);
      wide.model.dispose();
      expect(readEntries(folder).get('model.norm.weight')!.dtype).toBe('float32');
      const { model } = openLlama(folder, { dtype });
      expect(digests(model)).toEqual(bytes);
      model.dispose();
    }
  });

  it('reads shards, and an embedding that is stored under the name of the head tied to it', async () => {
    const config = tinyLlamaConfig({ tie_word_embeddings: true });
    const tensors = randomTensors(config).map(([name, tensor]): [string, WritableTensor] => [
      name === 'model.embed_tokens.weight' ? 'lm_head.weight' : name,
      tensor,
    ]);
    writeConfigOf(config);
    const paths = await saveWeights(folder, tensors, { maxShardBytes: 2000 });
    expect(paths.length).toBeGreaterThan(3);
    const { model } = openLlama(folder);
    expect(digests(model)).toEqual(digestsOf(randomTensors(config)));
    model.dispose();
  });

  it('does not tie a head that differs from the embedding, whatever config.json says, and says so once', async () => {
    const bytes = await save({ tie_word_embeddings: false });
    const tied = tinyLlamaConfig({ tie_word_embeddings: true, dtype: 'float32' });
    rmSync(join(folder, 'config.json'));
    writeConfigOf(tied);
    const opened = openLlama(folder);
    expect(digests(opened.model)).toEqual(bytes);
    expect(opened.model.config).toEqual({ ...tied, tie_word_embeddings: false });
    expect(opened.warnings).toEqual([
      'tie_word_embeddings is true, but lm_head.weight and model.embed_tokens.weight differ: they are not tied',
    ]);
    await saveLlama(folder, opened);
    opened.model.dispose();
    const again = openLlama(folder);
    expect([again.json.tie_word_embeddings, again.warnings]).toEqual([false, []]);
    expect(digests(again.model)).toEqual(bytes);
    again.model.dispose();
  });

  it('ties a head that is stored beside the embedding it equals', async () => {
    const config = tinyLlamaConfig({ tie_word_embeddings: true });
    const tensors = randomTensors(config);
    writeConfigOf(config);
    await saveWeights(folder, [...tensors, ['lm_head.weight', new Map(tensors).get('model.embed_tokens.weight')!]]);
    const { model, warnings } = openLlama(folder);
    expect(digests(model)).toEqual(digestsOf(tensors));
    expect([model.config.tie_word_embeddings, warnings]).toEqual([true, []]);
    model.dispose();
  });

  it('names every weight that is missing, unexpected or misshapen in one error', async () => {
    const config = tinyLlamaConfig();
    writeConfigOf(config);
    const tensors = randomTensors(config)
      .filter(([name]) => name !== 'model.layers.0.mlp.up_proj.weight')
      .map(([name, tensor]): [string, WritableTensor] => [
        name === 'model.layers.1.self_attn.k_proj.weight' ? 'model.layers.1.self_attn.key_proj.weight' : name,
        name === 'model.norm.weight' ? { ...tensor, shape: [4, 4] } : tensor,
      ]);
    await saveWeights(folder, tensors);
    expect(() => openLlama(folder)).toThrow(
      expect.objectContaining({
        name: 'UserError',
        message: [
          `${folder}: the weights do not fit config.json: 4 problems`,
          '  - missing model.layers.0.mlp.up_proj.weight [10, 16]',
          '  - missing model.layers.1.self_attn.k_proj.weight [8, 16]; did you mean model.layers.1.self_attn.key_proj.weight?',
          '  - unexpected model.layers.1.self_attn.key_proj.weight [8, 16]',
          '  - model.norm.weight: found shape [4, 4], expected [16] by config.json',
        ].join('\n'),
      }),
    );
  });

  it('says which file is cut short, and by how much', async () => {
    await save();
    const file = join(folder, 'model.safetensors');
    const size = readFileSync(file).length;
    truncateSync(file, size - 100);
    expect(() => openLlama(folder)).toThrow(
      `${file}: the file is cut short: expected ${size} bytes, found ${size - 100}; copy or download it again`,
    );
    truncateSync(file, 5);
    expect(() => openLlama(folder)).toThrow(`${file}: not a complete safetensors file: it has 5 bytes`);
  });

  it('says what is missing in a folder that is no model', () => {
    expect(() => openLlama(folder)).toThrow(expect.objectContaining({ name: 'UserError' }));
    expect(() => openLlama(folder)).toThrow(join(folder, 'config.json'));
    writeConfigOf(tinyLlamaConfig());
    expect(() => openLlama(folder)).toThrow(`${folder}: no weights; expected model.safetensors`);
  });

  it('leaves weights in their file: 64 MiB cost no anonymous memory, and the mapping ends with the last weight', async () => {
    const config = tinyLlamaConfig({ vocab_size: 32768, hidden_size: 512, tie_word_embeddings: true });
    writeConfigOf(config);
    const zeros = [...llamaWeightShapes(config)].map(([name, shape]): [string, WritableTensor] => {
      const size = shape.reduce((product, extent) => product * extent, 4);
      return [name, { dtype: 'float32', shape, bytes: () => new Uint8Array(size) }];
    });
    await saveWeights(folder, zeros);
    const { anonymous } = readMemory();
    const { model } = openLlama(folder);
    if (anonymous !== undefined) {
      expect(readMemory().anonymous! - anonymous).toBeLessThan(8 * 2 ** 20);
      expect(mapsOf(folder)).toBe(1);
    }
    model.dispose();
    if (anonymous !== undefined) expect(mapsOf(folder)).toBe(0);
  });
});

describe.skipIf(!haveStories)('stories260K', () => {
  it('lies mapped as it is stored, every weight where TensorFlow needs no copy', () => {
    const { model, warnings } = openLlama(stories);
    expect(warnings).toEqual([]);
    expect(model.parameters.size).toBe(47);
    for (const [name, { offset }] of readEntries(stories)) expect([name, offset % 64]).toEqual([name, 0]);
    if (process.platform === 'linux') expect(mapsOf(stories)).toBe(1);
    model.dispose();
    if (process.platform === 'linux') expect(mapsOf(stories)).toBe(0);
  });

  it('comes back bit for bit from a folder that we saved, tokenizer and config included', async () => {
    const opened = openLlama(stories);
    await saveLlama(folder, opened, stories);
    const bytes = digests(opened.model);
    opened.model.dispose();
    const { model, json } = openLlama(folder);
    expect(digests(model)).toEqual(bytes);
    expect(json).toEqual(opened.json);
    for (const name of ['tokenizer.json', 'tokenizer_config.json'])
      expect(readFileSync(join(folder, name)).equals(readFileSync(join(stories, name)))).toBe(true);
    model.dispose();
  });

  it('is refused with the wrong config, by names and shapes', () => {
    cpSync(stories, folder, { recursive: true });
    const file = join(folder, 'config.json');
    rmSync(file);
    writeFileSync(file, JSON.stringify({ ...(JSON.parse(readFileSync(join(stories, 'config.json'), 'utf8')) as object), num_hidden_layers: 4, num_key_value_heads: 8 })); // prettier-ignore
    expect(() => openLlama(folder)).toThrow(/unexpected model\.layers\.4\.mlp\.up_proj\.weight \[172, 64\]/);
    expect(() => openLlama(folder)).toThrow(
      /model\.layers\.0\.self_attn\.k_proj\.weight: found shape \[32, 64\], expected \[64, 64\] by config\.json/,
    );
  });
});

function writeConfigOf(config: LlamaConfig): void {
  writeFileSync(join(folder, 'config.json'), JSON.stringify(llamaConfigJson(config)));
}

function randomTensors(config: LlamaConfig): [string, WritableTensor & { bytes(): Uint8Array }][] {
  return [...llamaWeightShapes(config)].map(([name, shape], i) => {
    const size = shape.reduce((product, extent) => product * extent, 1);
    return [name, { dtype: 'float32', shape, bytes: () => new Uint8Array(noise(size, i).buffer) }];
  });
}

/** Mappings of files of a folder in this process (Linux). */
function mapsOf(folder: string): number {
  // The system shows real paths, without symbolic links.
  const real = `${realpathSync(folder)}/`;
  return readFileSync("/proc/self/maps", "utf8").split("\n").filter((line) => line.includes(real)).length; // prettier-ignore
}
