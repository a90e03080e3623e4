import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parseLlamaConfig } from './config-file.ts';
import type { JsonObject } from './json-object.ts';
import { inverseFrequencies, rotaryTables } from './rotary-tables.ts';

/** Made by tools/golden/rotary_tables.py with transformers; versions inside. */
interface Golden {
  positions: number[];
  cases: { name: string; config: JsonObject; inverseFrequencies: Encoded; cos: Encoded; sin: Encoded }[];
}
interface Encoded {
  shape: number[];
  float32: string;
}
const golden = JSON.parse(readFileSync(new URL('golden/rotary-tables.json', import.meta.url), 'utf8')) as Golden;
const decode = ({ float32 }: Encoded) => new Float32Array(Uint8Array.from(Buffer.from(float32, 'base64')).buffer);

/** Two units in the last place of a float32, relative: what torch's vectorised power may be off by. */
const twoUlp = 2 * 2 ** -23;

describe.each(golden.cases)('rotary tables of $name', ({ config: json, ...expected }) => {
  const { config } = parseLlamaConfig(json);
  const frequencies = decode(expected.inverseFrequencies);

  it("have transformers' frequencies to two units in the last place", () => {
    const found = inverseFrequencies(config);
    expect([...found.keys()]).toEqual([...frequencies.keys()]);
    const errors = found.map((frequency, i) => Math.abs(frequency - frequencies[i]) / frequencies[i]);
    expect(Math.max(...errors)).toBeLessThanOrEqual(twoUlp);
  });

  it("have transformers' cosines and sines, to the angle that such a frequency is off by", () => {
    const { cos, sin } = rotaryTables(config, Int32Array.from(golden.positions));
    const [D, half] = [config.head_dim, frequencies.length];
    for (const [found, encoded] of [
      [cos, expected.cos],
      [sin, expected.sin],
    ] as const) {
      expect(encoded.shape).toEqual([golden.positions.length, D]);
      const values = decode(encoded);
      expect(found.length).toBe(values.length);
      // Radians: the frequency's error times the position, and the rounding of their product.
      const excess = values.map((value, at) => {
        const angle = golden.positions[Math.floor(at / D)] * frequencies[(at % D) % half];
        return Math.abs(found[at] - value) - (1.5 * twoUlp * angle + 2 ** -23);
      });
      expect(Math.max(...excess)).toBeLessThanOrEqual(0);
    }
  });
});

it('covers every kind of scaling, and for llama3 all three bands', () => {
  const kinds = golden.cases.map(({ config }) => parseLlamaConfig(config).config.rope_parameters.rope_type);
  expect(new Set(kinds)).toEqual(new Set(['default', 'linear', 'llama3']));
  const [plain, scaled] = ['llama-3-8b', 'llama-3.1-8b'].map((wanted) =>
    decode(golden.cases.find(({ name }) => name === wanted)!.inverseFrequencies),
  );
  const stretch = plain.map((frequency, i) => frequency / scaled[i]);
  expect([stretch[0], stretch.filter((factor) => factor > 1.01 && factor < 7.9).length > 0, stretch.at(-1)]).toEqual([
    1,
    true,
    8,
  ]);
});

it('turns by one radian per position in the first pair, whatever the row a position stands in', () => {
  const { config } = parseLlamaConfig({ model_type: 'llama', hidden_size: 8, num_attention_heads: 2 });
  const { cos, sin } = rotaryTables(config, Int32Array.of(3, 0, 3));
  expect(cos[0]).toBeCloseTo(Math.cos(3), 6);
  expect(sin[2]).toBeCloseTo(Math.sin(3), 6); // the second half repeats the first
  expect([...cos.subarray(4, 8), ...sin.subarray(4, 8)]).toEqual([1, 1, 1, 1, 0, 0, 0, 0]);
  expect(cos.subarray(8)).toEqual(cos.subarray(0, 4));
});
