import { UserError } from '@blockwise/errors';
import * as tf from '@tensorflow/tfjs-core';
import { registerBackend } from './backend.ts';
import { provisionTensorFlow } from './provision/provision-tensorflow.ts';
import { currentRuntime, hasRuntime, startRuntime } from './current-runtime.ts';

/** How initTensorFlow() starts the engine. */
export interface TensorFlowOptions {
  /** Where operations run; default 'cpu'. 'gpu' takes the CUDA variant of the library. */
  device?: 'cpu' | 'gpu';
  /** Threads inside one operation; default 0: one per core. */
  threads?: number;
}

let starting: { options: Required<TensorFlowOptions>; done: Promise<void> } | undefined;

/**
 * Finds (or fetches, see provision/) libtensorflow, loads it, and registers it as the TensorFlow.js backend. Once per process: later
 * calls return the first one's promise; after a failure the next call tries again.
 * @throws UserError what provisioning throws; where there is no such device; where a later call asks for other options
 */
export async function initTensorFlow(options: TensorFlowOptions = {}): Promise<void> {
  if (!starting) {
    const { device = 'cpu', threads = 0 } = options;
    if (!(Number.isInteger(threads) && threads >= 0))
      throw new UserError(`threads: expected a whole number from 0 (one per core), found ${threads}`);
    starting = { options: { device, threads }, done: start({ device, threads }) };
  }
  for (const [name, running] of Object.entries(starting.options)) {
    const asked = options[name as keyof TensorFlowOptions] ?? running;
    if (asked !== running)
      throw new UserError(
        `TensorFlow already runs in this process with ${name} ${running}; ${name} ${asked} needs a process of its own`,
      );
  }
  try {
    await starting.done;
  } catch (error) {
    starting = undefined;
    throw error;
  }
}

async function start({ device, threads }: Required<TensorFlowOptions>): Promise<void> {
  const library = await provisionTensorFlow({ variant: device === 'gpu' ? 'cuda' : 'cpu' });
  startRuntime(library.frameworkPath, library.ccPath, { device, threads });
  await registerBackend();
  await tf.ready();
  // Of what malloc gave out while loading, too, 20 to 40 MB are free again and would stay resident.
  currentRuntime().settle();
}

/** What runs underneath, for run records. */
export function describeEngine(): { tensorflow: string; device: string; threads: number } {
  const runtime = currentRuntime();
  return {
    tensorflow: runtime.api.TF_Version() as string,
    device: runtime.deviceName,
    threads: runtime.options.threads,
  };
}

/** Tensor handles alive in the engine: equal before and after a piece of work that leaks nothing. */
export function liveTensors(): number {
  return hasRuntime() ? currentRuntime().liveHandles : 0;
}
