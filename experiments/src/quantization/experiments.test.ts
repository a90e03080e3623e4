import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { repository } from '../embedded.ts';

/** Few steps: that the experiments work and leave their records, not what they find. */
test.each(['quantize-llama', 'bitnet'])(
  '%s ends with its figures as JSON and leaves a table with its origin',
  (name) => {
    const { status, stdout, stderr } = spawnSync(
      process.execPath,
      ['--import', 'tsx', '--conditions=blockwise-source', `src/${name}.ts`],
      {
        cwd: fileURLToPath(new URL('../..', import.meta.url)),
        // Without the shared data: the default run.
        env: { ...process.env, BLOCKWISE_BENCH_TINY: '1', BLOCKWISE_DATA: join(repository, 'no-such-folder') },
        encoding: 'utf8',
      },
    );
    expect([status, status === 0 ? '' : stderr]).toEqual([0, '']);
    const figures = JSON.parse(stdout.trimEnd().split('\n').at(-1)!) as Record<string, number>;
    for (const [key, figure] of Object.entries(figures))
      expect([key, Number.isFinite(figure) && figure > 0]).toEqual([key, true]);
    const path = join(repository, 'results/quantization/tiny', name);
    const record = JSON.parse(readFileSync(`${path}.json`, 'utf8')) as Record<string, unknown>;
    expect(record).toMatchObject({ command: `npx nx run experiments:${name}`, seed: 1, figures });
    expect(record).toMatchObject({ machine: { cores: expect.any(Number) }, versions: { node: process.version } });
    expect(readFileSync(`${path}.md`, 'utf8')).toContain(`- Command: \`npx nx run experiments:${name}\`; seed 1`);
    // Packing changes nothing but the order of sums.
    if (name === 'bitnet') expect(Math.abs(figures.packedPerplexityOverTrained - 1)).toBeLessThan(1e-3);
  },
);
