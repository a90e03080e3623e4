import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
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
  'bench-planner': { worstError: [] },
  'bench-steady': { memoryLastOverFirst: [], timeLastOverFirst: [], compiledVariants: [] },
  'bench-all-methods': { block: ['tokensPerSecond', 'peakGB'], lora: ['tokensPerSecond', 'peakGB'] },
  'bench-adam': { extraBytesOverBlock: [], timeOverThreePasses: [] },
};

/** Benchmarks of which a part is enough, by words, and whose results have a folder of their own. */
const parts: Record<string, { words: string[]; folder: string }> = {
  'bench-all-methods': { words: ['block', 'lora'], folder: 'methods' },
};

test.each(Object.entries(cases))(
  '%s ends with its figures as JSON and leaves a table with its origin',
  (name, keys) => {
    const { words, folder } = parts[name] ?? { words: [], folder: 'benchmarks' };
    const began = Date.now();
    const { status, stdout } = spawnSync(
      process.execPath,
      ['--import', 'tsx', '--conditions=blockwise-source', `src/bench/${name}.ts`, ...words],
      {
        cwd: fileURLToPath(new URL('../..', import.meta.url)),
        env: { ...process.env, BLOCKWISE_BENCH_TINY: '1' },
        encoding: 'utf8',
      },
    );
    expect(status).toBe(0);
    const figures = JSON.parse(stdout.trimEnd().split('\n').at(-1)!) as Record<string, object | number>;
    expect(Object.keys(figures)).toEqual(Object.keys(keys));
    const numbers = Object.entries(keys).flatMap(([key, inner]) => {
      if (inner.length === 0) return [figures[key]];
      expect(Object.keys(figures[key])).toEqual(inner);
      return Object.values(figures[key]) as number[];
    });
    for (const number of numbers) expect(number).toSatisfy(Number.isFinite);

    const [json, markdown] = ['json', 'md'].map((type) =>
      join(repository, 'results', folder, 'tiny', `${name}.${type}`),
    );
    expect(existsSync(json) && statSync(json).mtimeMs >= began - 1000).toBe(true);
    const record = JSON.parse(readFileSync(json, 'utf8')) as Record<string, unknown>;
    expect(record).toMatchObject({ name, command: `npx nx run experiments:${name}`, seed: 1, figures });
    expect(record).toMatchObject({
      machine: { cores: expect.any(Number) },
      versions: { tensorflow: expect.any(String) },
    });
    expect(readFileSync(markdown, 'utf8')).toContain(`- Command: \`npx nx run experiments:${name}\`; seed 1`);
  },
);
