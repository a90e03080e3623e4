import type { RunRecord } from './run-record.ts';

/** A made-up run for the tests: 3 blocks of 10 steps each in turn, validated every 20 steps. */
export function exampleRunRecord(steps = 60): RunRecord {
  const blockOf = (step: number) => [2, 0, 1][Math.floor((step - 1) / 10) % 3]!;
  const loss = (step: number) =>
    1.2 + 2.2 * Math.exp(-step / (steps / 4)) + 0.25 * Math.sin(step * 12.9898 + step ** 2);
  return {
    schemaVersion: 1,
    name: 'alpaca-llama',
    command: 'npx nx run experiments:alpaca-llama --seed 7',
    config: { seed: 7, switchBlockEvery: 10, switchMode: 'random', outputDir: null },
    seed: 7,
    startedAt: '2025-01-02T03:04:05.000Z',
    finishedAt: '2025-01-02T03:06:07.000Z',
    status: 'finished',
    error: null,
    commit: '0123456789abcdef0123456789abcdef01234567',
    versions: { node: '20.19.0', libtensorflow: '2.21.0', packages: { '@blockwise/training': '0.1.0' } },
    machine: { cpu: 'Example CPU', cores: 2, memoryBytes: 24 * 2 ** 30, gpu: null },
    model: { name: 'embedded', parameters: 1_200_000_000, layers: 3, blocks: 3 },
    data: {
      path: 'datasets/embedded/instructions.json',
      sha256: 'ab'.repeat(32),
      examples: 520,
      trainExamples: 500,
      validationExamples: 20,
      labelTokens: 12_345,
    },
    timing: {
      total: 122,
      compile: 3.5,
      forward: 30,
      backward: 50,
      update: 8,
      evaluation: 12,
      tokensPerSecond: 3120.5,
      examplesPerSecond: 24.25,
    },
    memory: {
      planned: {
        parameters: 2_400_000_000,
        gradients: 1_600_000_000,
        optimizerStates: 4_800_000_000,
        activations: 500_000_000,
        workspace: 250_000_000,
        peak: 9_000_000_000,
      },
      measured: {
        parameters: 2_400_000_000,
        gradients: 1_200_000_000,
        optimizerStates: 4_800_000_000,
        activations: 550_000_000,
        workspace: null,
        peak: 9_450_000_000,
        peakResident: 9_900_000_000,
        peakAnonymous: 8_100_000_000,
        peakFileBacked: 1_800_000_000,
      },
    },
    steps: Array.from({ length: steps }, (_, index) => ({
      step: index + 1,
      epoch: (index + 1) / 30,
      loss: loss(index + 1),
      learningRate: 1e-3 * (1 - index / steps),
      gradNorm: 1.5,
      block: blockOf(index + 1),
      tokens: 128,
      seconds: 0.04,
    })),
    validation: Array.from({ length: Math.floor(steps / 20) + 1 }, (_, index) => {
      const value = 1.3 + 2.1 * Math.exp((-20 * index) / (steps / 4));
      return { step: 20 * index, loss: value, perplexity: Math.exp(value) };
    }),
    blockHistory: Array.from({ length: steps / 10 }, (_, index) => ({
      blockEpoch: Math.floor(index / 3),
      block: blockOf(10 * index + 1),
      name: `model.layers.${blockOf(10 * index + 1)}.`,
      firstStep: 10 * index + 1,
      lastStep: 10 * index + 10,
    })),
    samples: [{ prompt: 'What colour is snow?', before: 'Once upon a time', after: 'Snow is white.' }],
  };
}
