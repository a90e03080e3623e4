import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { repository } from '../embedded.ts';

/** Tiny shapes: that the benchmarks work, not how fast anything is. bench-official needs PyTorch and is run by hand. */
const cases = {
  'bench-layers': {
    h768: ['forward', 'inputGradient', 'allGradients'],
    h2048: ['forward', 'inputGradient', 'allGradients'],
    head: [],
  },
  'bench-depth': { outputOverAll: [], inputOverAll: [] },
  'bench-7b': { residentPeakGB: [], streamedAnonymousGB: [], secondsPerStep: [], fitsLimitGB: [] },
  'bench-planner': { worstError: [], worstSingleProcess: [] },
  'bench-steady': { memoryLastOverFirst: [], timeLastOverFirst: [], compiledVariants: [] },
  'bench-all-methods': { block: ['tokensPerSecond', 'peakGB'], lora: ['tokensPerSecond', 'peakGB'] },
  'bench-adam': { extraBytesOverBlock: [], timeOverThreePasses: [] },
};

/** Of which a part is enough: by words, and then without a record. */
const parts: Record<string, string[]> = { 'bench-all-methods': ['block', 'lora'] };

/** Which hold processes to a limit and tell kinds of memory apart. */
const linuxOnly = new Set(['bench-7b', 'bench-planner']);

function run(name: string, words: readonly string[]) {
  const command = ['--import', 'tsx', '--conditions=blockwise-source', `src/bench/${name}.ts`, ...words];
  const cwd = fileURLToPath(new URL('../..', import.meta.url));
  return spawnSync(process.execPath, command, {
    cwd,
    env: { ...process.env, BLOCKWISE_BENCH_TINY: '1' },
    encoding: 'utf8',
  });
}

describe.each(Object.entries(cases))('%s', (name, keys) => {
  const words = parts[name] ?? [];

  test.skipIf(linuxOnly.has(name) && process.platform !== 'linux')(
    'ends with its figures as JSON and leaves a table with its origin',
    () => {
      const began = Date.now();
      const { status, stdout, stderr } = run(name, words);
      expect(status).toBe(0);
      const figures = JSON.parse(stdout.trimEnd().split('\n').at(-1)!) as Record<string, object | number>;
      expect(Object.keys(figures)).toEqual(Object.keys(keys));
      const numbers = Object.entries(keys).flatMap(([key, inner]) => {
        if (inner.length === 0) return [figures[key]];
        expect(Object.keys(figures[key])).toEqual(inner);
        return Object.values(figures[key]) as number[];
      });
      for (const number of numbers) expect(number).toSatisfy(Number.isFinite);
      const origin = `- Command: \`npx nx run experiments:${name}\`; seed 1`;
      if (words.length > 0) return expect(stderr).toMatch(new RegExp(`${origin}[^]*not recorded`));

      const [json, markdown] = ['json', 'md'].map((type) =>
        join(repository, 'results/benchmarks/tiny', `${name}.${type}`),
      );
      expect(existsSync(json) && statSync(json).mtimeMs >= began - 1000).toBe(true);
      const record = JSON.parse(readFileSync(json, 'utf8')) as Record<string, unknown>;
      expect(record).toMatchObject({ name, command: `npx nx run experiments:${name}`, seed: 1, figures });
      expect(record).toMatchObject({
        machine: { cores: expect.any(Number) },
        versions: { tensorflow: expect.any(String) },
      });
      expect(readFileSync(markdown, 'utf8')).toContain(origin);
    },
  );
});

test.each(['bench-official', 'bench-methods', 'bench-all-methods', 'bench-planner', 'bench-7b'])(
  '%s refuses a word that is no part of it, before anything is made',
  (name) => {
    const { status, stdout, stderr } = run(name, ['lamo']);
    expect(stderr).toMatch(/^error: lamo: no part of this benchmark; it has: .+\n$/);
    expect([status, stdout]).toEqual([2, '']);
  },
);
