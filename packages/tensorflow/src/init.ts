import * as tf from '@tensorflow/tfjs-core';
import { registerBackend } from './backend.ts';
import { provisionTensorFlow } from './provision/provision-tensorflow.ts';
import { currentRuntime, hasRuntime, startRuntime } from './runtime.ts';

/** How initTensorFlow() starts the engine. */
export interface TensorFlowOptions {
  /** Where operations run; default 'cpu'. 'gpu' takes the CUDA variant of the library. */
  device?: 'cpu' | 'gpu';
  /** Threads inside one operation; default 0: one per core. */
  threads?: number;
}

let starting: Promise<void> | undefined;

/**
 * Finds (or fetches, see provision/) libtensorflow, loads it, and registers it as the TensorFlow.js backend. Once per process: later
 * calls return the first one's promise. Throws what provisioning throws, or where the device does not exist.
 */
export function initTensorFlow(options: TensorFlowOptions = {}): Promise<void> {
  return (starting ??= start(options));
}

async function start({ device = 'cpu', threads = 0 }: TensorFlowOptions): Promise<void> {
  const library = await provisionTensorFlow({ variant: device === 'gpu' ? 'cuda' : 'cpu' });
  const runtime = startRuntime(library.frameworkPath, library.ccPath, { device, threads });
  registerBackend(runtime);
  await tf.ready();
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
