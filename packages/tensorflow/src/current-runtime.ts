import { closeSync, openSync } from 'node:fs';
import process from 'node:process';
import { libc, loadLibrary } from './library.ts';
import { Runtime, type RuntimeOptions, type TensorRuntime } from './runtime.ts';

/** TensorFlow greets on standard error before its log level applies. What goes wrong in `body` comes as an exception all the same. */
function withoutStderr<T>(body: () => T): T {
  const nowhere = openSync('/dev/null', 'w');
  const stderr = libc.dup(2) as number;
  libc.dup2(nowhere, 2);
  try {
    return body();
  } finally {
    libc.dup2(stderr, 2);
    closeSync(stderr);
    closeSync(nowhere);
  }
}

let runtime: Runtime | undefined;

/** What everything says that needs TensorFlow before initTensorFlow(). */
export const notLoaded = 'TensorFlow is not loaded yet: await initTensorFlow() first';

/** Starts TensorFlow in this process, once. */
export function startRuntime(frameworkPath: string, ccPath: string, options: RuntimeOptions): Runtime {
  // Errors come as exceptions that name the operation; what TensorFlow prints beside them is about its own start.
  process.env.TF_CPP_MIN_LOG_LEVEL ??= '3';
  // oneDNN's float32 GEMM is half as fast again on CPUs without AVX-512, where TensorFlow leaves it off; elsewhere this is the default.
  process.env.TF_ENABLE_ONEDNN_OPTS ??= '1';
  // Reductions along rows in two passes, with the values written down in between: 1.3 to 3 times slower than in one.
  process.env.XLA_FLAGS ??= '--xla_disable_hlo_passes=tree_reduction_rewriter';
  return withoutStderr(
    () => (runtime = new Runtime(loadLibrary(frameworkPath, ccPath), options, [frameworkPath, ccPath])),
  );
}

let standIn: TensorRuntime | undefined;

/** The runtime, once initTensorFlow() has run. */
export function currentRuntime(): TensorRuntime {
  if (standIn) return standIn;
  if (!runtime) throw new Error(notLoaded);
  return runtime;
}

/** Runs `body` with another runtime in place of TensorFlow's; see rehearsal/. */
export async function withRuntime<T>(other: TensorRuntime, body: () => Promise<T>): Promise<T> {
  if (standIn) throw new Error('internal: rehearsals do not nest');
  standIn = other;
  try {
    return await body();
  } finally {
    standIn = undefined;
  }
}

/** Whether values are imagined now (see rehearse()): work on them in JavaScript would be in vain. */
export const isRehearsal = () => standIn !== undefined;

/** Whether initTensorFlow() has loaded the library. */
export const hasRuntime = () => runtime !== undefined;
