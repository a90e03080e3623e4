import { dtypes, statelessRandom, takeRaw, tf } from '@blockwise/tensorflow';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { llamaWeightShapes, parameterCount, type LlamaConfig, type WeightDtype } from './config.ts';
import { llamaConfigJson, writeConfig } from './config-file.ts';
import type { JsonObject } from './json-object.ts';
import { createLlama, type ComputeDtype, type Llama } from './llama.ts';
import { writeHollowSafetensors, type WritableTensor } from './safetensors.ts';
import { saveWeights } from './weights.ts';

/** What decides the weights of a model that was never trained. */
export interface FreshOptions {
  /** An integer; another one gives other weights. */
  seed: number;
  /** How the weights are kept; default float32. */
  dtype?: WeightDtype;
  /** What linear layers multiply in; default float32. */
  computeDtype?: ComputeDtype;
}

/**
 * A Llama with random weights as transformers initialises one (modeling_llama.py, `_init_weights`): normal with standard deviation
 * initializer_range, norms 1, biases 0; only the row of a pad_token_id is drawn here and 0 there. Weights are made one at a time, so at most
 * one is in memory as float32 beside the others at rest.
 */
export function freshLlama(config: LlamaConfig, options: FreshOptions): Llama {
  return createLlama(config, freshWeights(config, options), options);
}

/** freshLlama()'s weights, or those of another list of names and shapes. */
export function freshWeights(config: LlamaConfig, options: FreshOptions, shapes = llamaWeightShapes(config)) {
  return new Map(plan(config, options, shapes).map(({ name, draw }) => [name, draw()]));
}

/**
 * Writes freshLlama()'s weights into a folder in Hugging Face layout, in files of about one layer each, with config.json: each tensor is
 * drawn, written and freed, so a model larger than memory can be made. openLlama() maps it.
 */
export async function saveFreshLlama(folder: string, config: LlamaConfig, options: FreshOptions): Promise<void> {
  const { dtype = 'float32' } = options;
  await mkdir(folder, { recursive: true });
  const tensors = plan(config, options).map(({ name, shape, draw }) => {
    const bytes = () => {
      const weight = draw();
      const values = weight.bytes();
      weight.dispose();
      return values;
    };
    return [name, { dtype, shape, bytes }] as const;
  });
  const layer = parameterCount(config).stages.find(({ name }) => name.startsWith('model.layers.'))?.parameters ?? 0;
  await saveWeights(folder, tensors, { maxShardBytes: Math.max(layer * dtypes[dtype].bytes, 1) });
  await writeConfig(folder, llamaConfigJson({ ...config, dtype }), dtype);
}

/**
 * Writes a folder that opens as a model of this config with all weights zero, and takes no room on the disk: for planning what a model
 * would take.
 */
export function saveHollowLlama(folder: string, config: LlamaConfig, dtype: WeightDtype): Promise<void> {
  const tensors = [...llamaWeightShapes(config)].map(([name, shape]) => [name, { dtype, shape }] as const);
  return saveHollow(folder, tensors, llamaConfigJson(config), dtype);
}

/** The same for any list of weights; `json` and `dtype` are what config.json says. */
export async function saveHollow(
  folder: string,
  tensors: Iterable<readonly [string, Pick<WritableTensor, 'dtype' | 'shape'>]>,
  json: JsonObject,
  dtype: WeightDtype,
): Promise<void> {
  await mkdir(folder, { recursive: true });
  await writeHollowSafetensors(join(folder, 'model.safetensors'), tensors);
  await writeConfig(folder, json, dtype);
}

/** Every weight, and how to make it. */
function plan(config: LlamaConfig, { seed, dtype = 'float32' }: FreshOptions, shapes = llamaWeightShapes(config)) {
  return [...shapes].map(([name, shape], index) => {
    const draw = () => takeRaw(exact(name, shape, config.initializer_range, [seed, index]), dtype);
    return { name, shape, draw };
  });
}

/** float32 values of one weight. */
function exact(name: string, shape: readonly number[], deviation: number, seed: [number, number]): tf.Tensor {
  if (name.endsWith('norm.weight')) return tf.fill([...shape], 1);
  if (name.endsWith('.bias')) return tf.fill([...shape], 0);
  return tf.tidy(() => tf.mul(statelessRandom('Normal', shape, tf.tensor1d(seed, 'int32')), deviation));
}
