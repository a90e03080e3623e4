import * as tf from '@tensorflow/tfjs-core';
import { attribute } from './attributes.ts';
import { dtypeOfCode, dtypes, type DType } from './dtypes.ts';
import { TensorUseError } from './errors.ts';
import { isSymbol } from './graph.ts';
import { idOfAny, RawTensor, wrapAny, type AnyTensor } from './raw-tensor.ts';
import { currentRuntime } from './current-runtime.ts';
import type { TensorRuntime } from './runtime.ts';

/** A TensorFlow.js function compiled to one TensorFlow function per shape of its inputs. */
export interface CompiledFunction<Outputs extends AnyTensor[] = tf.Tensor[]> {
  /** Runs it; inputs are borrowed, outputs are the caller's. Inside another compiled function its body is traced in line. */
  (...inputs: AnyTensor[]): Outputs;
  /** The same off the main thread, so that the event loop stays alive. */
  async(...inputs: AnyTensor[]): Promise<Outputs>;
  /** Variants traced so far and alive, one per combination of input shapes and dtypes. */
  readonly variants: number;
  /** Seconds spent tracing, and in first runs in which XLA compiled kernels. */
  readonly compileSeconds: number;
  /** Forgets every variant. */
  dispose(): void;
}

/** Compiled variants kept per function; the least recently used one goes first. Buckets of lengths keep real runs far below. */
const maximumVariants = 64;
const settleMilliseconds = 5;
let functions = 0;

/**
 * Compiles `body`, TensorFlow.js code over tensors (autodiff included), into TensorFlow graph functions: traced once per combination of
 * input shapes and dtypes, then called as one operation. Whatever `body` reads from JavaScript is frozen at the first trace, so values
 * that change from call to call have to be inputs. Small outside tensors, and large ones of one value throughout, become
 * constants; any other throws a TensorUseError.
 *
 * The function is called by its name: calling it through PartitionedCall would run the graph optimiser, whose remapper replaces
 * attention by a reference kernel forty times slower.
 */
export function compile<Outputs extends AnyTensor[] = tf.Tensor[]>(
  name: string,
  body: (...inputs: AnyTensor[]) => Outputs,
): CompiledFunction<Outputs> {
  // A rehearsal's functions are unknown to TensorFlow, and the other way about.
  const variantsOf = new WeakMap<TensorRuntime, Map<string, string>>();
  const ownVariants = () => {
    const runtime = currentRuntime();
    const variants = variantsOf.get(runtime) ?? new Map<string, string>();
    variantsOf.set(runtime, variants);
    return variants;
  };
  let compileSeconds = 0;
  /** Variants whose first run will compile kernels. */
  const fresh = new Set<string>();
  /** What to do after a run of a variant: account for the first one. */
  const runOf = (variant: string) => {
    const begin = performance.now();
    if (!fresh.delete(variant)) return () => {};
    // Each part of the compiler is used once: what it leaves behind goes while the next part works.
    const settling = setInterval(() => currentRuntime().settle(), settleMilliseconds);
    return () => {
      clearInterval(settling);
      compileSeconds += (performance.now() - begin) / 1000;
      currentRuntime().settle();
    };
  };

  const variantFor = (inputs: AnyTensor[]): string => {
    const variants = ownVariants();
    const key = inputs.map((x) => `${x.dtype}[${x.shape}]`).join();
    let variant = variants.get(key);
    variants.delete(key);
    if (!variant) {
      const begin = performance.now();
      variant = `${name}_${functions++}`;
      if (trace(variant, inputs, body)) fresh.add(variant);
      compileSeconds += (performance.now() - begin) / 1000;
      if (variants.size >= maximumVariants) evictOldest(variants);
    }
    variants.set(key, variant);
    return variant;
  };

  const call = (...inputs: AnyTensor[]): Outputs => {
    const runtime = currentRuntime();
    if (runtime.isTracing) return body(...inputs);
    const variant = variantFor(inputs);
    const ids = inputs.map(idOfAny);
    const end = runOf(variant);
    try {
      return runtime.execute(variant, [], ids).map(wrapAny) as Outputs;
    } finally {
      end();
    }
  };
  return Object.defineProperties(call as CompiledFunction<Outputs>, {
    async: {
      value: async (...inputs: AnyTensor[]) => {
        const runtime = currentRuntime();
        if (runtime.isTracing)
          throw new TensorUseError(`${name}: asynchronous calls are not possible inside a compiled function`);
        const variant = variantFor(inputs);
        const ids = inputs.map(idOfAny);
        const end = runOf(variant);
        const outputs = await runtime.executeAsync(variant, [], ids).finally(end);
        return outputs.map(wrapAny) as Outputs;
      },
    },
    variants: { get: () => ownVariants().size },
    compileSeconds: { get: () => compileSeconds },
    dispose: {
      value: () => {
        const variants = ownVariants();
        for (const variant of variants.values()) currentRuntime().removeFunction(variant);
        variants.clear();
      },
    },
  });
}

function evictOldest(variants: Map<string, string>): void {
  const [key, variant] = variants.entries().next().value!;
  currentRuntime().removeFunction(variant);
  variants.delete(key);
}

function trace(name: string, inputs: AnyTensor[], body: (...inputs: AnyTensor[]) => AnyTensor[]): boolean {
  const runtime = currentRuntime();
  const types = inputs.map((x) => ({ dtype: dtypes[x.dtype as DType].code as number, shape: x.shape }));
  return runtime.trace(name, types, (ids) => {
    let outputs: number[] = [];
    tf.tidy(() => {
      const symbols = ids.map((id, i) =>
        inputs[i] instanceof RawTensor
          ? new RawTensor(id, dtypeOfCode(types[i].dtype), types[i].shape)
          : wrapAny(runtime.describe(id)),
      );
      outputs = body(...symbols).map(symbolOf);
    });
    return outputs;
  });
}

/** The symbol of an output; a small tensor from outside becomes one here, while the trace still owns it. */
function symbolOf(output: AnyTensor): number {
  const id = idOfAny(output);
  if (isSymbol(id)) return id;
  return currentRuntime().execute('Identity', [attribute.type('T', dtypes[output.dtype as DType].code)], [id])[0].id;
}
