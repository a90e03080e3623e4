import type { AnyTensor, CompiledFunction, tf } from '@blockwise/tensorflow';
import { stageWeights } from './stage-weights.ts';
import type { Stage, StageWeights } from './stages.ts';

/** Tensors that stand for some of a stage's weights, by their names inside the stage. */
export type WeightCopies = ReadonlyMap<string, AnyTensor>;

/**
 * Runs a compiled function whose inputs are a stage's weights, as they are kept or in `copies`, and then `inputs`; borrows all, returns the results.
 */
export async function callStage<Outputs extends AnyTensor[] = tf.Tensor[]>(
  fn: CompiledFunction<Outputs>,
  stage: Stage,
  inputs: readonly AnyTensor[],
  copies: WeightCopies = new Map(),
): Promise<Outputs> {
  const own = [...stage.parameters].filter(([name]) => !copies.has(name));
  const acquired = new Map(own.map(([name, parameter]) => [name, parameter.acquire()]));
  const values = [...stage.parameters.keys()].map((name) => copies.get(name) ?? acquired.get(name)!);
  try {
    return await fn.async(...values, ...inputs);
  } finally {
    own.forEach(([name, parameter]) => parameter.release(acquired.get(name)!));
  }
}

/**
 * The other side: inside the compiled function, the stage's weights by name, floats as float32 and packed whole numbers (quantised codes)
 * as int32, and the rest of the inputs.
 */
export function stageInputs(stage: Stage, inputs: readonly AnyTensor[]): { weights: StageWeights; rest: tf.Tensor[] } {
  const names = [...stage.parameters.keys()];
  const weights = stageWeights(names.map((name, i) => [name, inputs[i]] as const));
  return { weights, rest: inputs.slice(names.length) as tf.Tensor[] };
}
