import { defineConfig } from 'vitest/config';

const conditions = ['blockwise-source', 'node'];

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions, externalConditions: ['blockwise-source'] } },
  test: {
    include: ['packages/*/src/**/*.test.ts', 'experiments/src/**/*.test.ts', 'tools/src/**/*.test.ts'],
    globalSetup: ['tools/src/test-folder.ts'],
    // libtensorflow is loaded once per process and cannot be shared by worker threads.
    pool: 'forks',
    maxWorkers: 2,
    // Two workers on two cores: TensorFlow's threads of one would wait for those of the other.
    env: { TF_NUM_INTRAOP_THREADS: '1' },
    testTimeout: 120_000,
    // .ci/run counts from this file.
    reporters: process.env.BLOCKWISE_TEST_REPORT
      ? ['default', ['json', { outputFile: process.env.BLOCKWISE_TEST_REPORT }]]
      : ['default'],
    hookTimeout: 120_000,
  },
});
