import { dirname } from 'node:path';
import process from 'node:process';
import { expect, test, vi } from 'vitest';
import { currentRuntime } from './current-runtime.ts';
import { describeEngine, initTensorFlow, liveTensors, provisionTensorFlow, tf } from './index.ts';

/** A test file is a process: here TensorFlow starts badly, then well. */
test('starting: before it, without a GPU, with wrong options, and after a failure', async () => {
  expect(() => describeEngine()).toThrow('TensorFlow is not loaded yet: await initTensorFlow() first');
  expect(liveTensors()).toBe(0);
  await expect(initTensorFlow({ threads: -1 })).rejects.toThrow(
    expect.objectContaining({
      name: 'UserError',
      message: 'threads: expected a whole number from 0 (one per core), found -1',
    }),
  );

  // The CPU build sees no GPU on any machine.
  const { frameworkPath, version } = await provisionTensorFlow();
  vi.stubEnv('BLOCKWISE_TENSORFLOW', dirname(frameworkPath));
  await expect(initTensorFlow({ device: 'gpu' })).rejects.toThrow(
    expect.objectContaining({
      name: 'UserError',
      message: expect.stringMatching(
        /^device gpu was asked for, but TensorFlow sees no GPU\.\n {2}What to do: .*nvidia-smi.*or use device cpu\.$/,
      ),
    }),
  );

  await initTensorFlow({ threads: 1 });
  await initTensorFlow();
  await initTensorFlow({ device: 'cpu', threads: 1 });
  await expect(initTensorFlow({ threads: 2 })).rejects.toThrow(
    expect.objectContaining({
      name: 'UserError',
      message: 'TensorFlow already runs in this process with threads 1; threads 2 needs a process of its own',
    }),
  );
  const engine = describeEngine();
  expect(engine).toEqual({
    tensorflow: version ?? engine.tensorflow,
    device: expect.stringMatching(/CPU:0$/),
    threads: 1,
  });
  expect(
    currentRuntime()
      .deviceNames()
      .filter((name) => name.includes('GPU')),
  ).toEqual([]);
  expect(tf.getBackend()).toBe('tensorflow');
});

test('one thread computes on one core', () => {
  const side = 1500;
  const [a, b] = [tf.fill([side, side], 1), tf.fill([side, side], 2)];
  tf.matMul(a, b).dispose();
  const [cpu, wall] = [process.cpuUsage(), performance.now()];
  for (let i = 0; i < 3; i++) {
    const product = tf.matMul(a, b);
    expect(product.dataSync()[side * side - 1]).toBe(2 * side);
    product.dispose();
  }
  const used = process.cpuUsage(cpu);
  expect((used.user + used.system) / 1000 / (performance.now() - wall)).toBeLessThan(1.3);
  [a, b].forEach((x) => x.dispose());
});
