import { defineConfig } from 'vitest/config';

const conditions = ['blockwise-source', 'node'];

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions, externalConditions: ['blockwise-source'] } },
  test: {
    include: [
      'packages/*/src/**/*.test.ts',
      'packages/*/test/**/*.test.ts',
      'experiments/src/**/*.test.ts',
      'tools/src/**/*.test.ts',
    ],
    // libtensorflow is loaded once per process and cannot be shared by worker threads.
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});
