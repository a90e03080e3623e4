import type { AnyTensor, CompiledFunction, tf } from '@blockwise/tensorflow';
import { stageWeights } from './stage-weights.ts';
import type { Stage, StageWeights } from './stages.ts';

/** Runs a compiled function whose inputs are a stage's weights, as they are kept, and then `inputs`; borrows all, returns the results. */
export async function callStage<Outputs extends AnyTensor[] = tf.Tensor[]>(
  fn: CompiledFunction<Outputs>,
  stage: Stage,
  inputs: readonly AnyTensor[],
): Promise<Outputs> {
  const parameters = [...stage.parameters.values()];
  const values = parameters.map((parameter) => parameter.acquire());
  try {
    return await fn.async(...values, ...inputs);
  } finally {
    parameters.forEach((parameter, i) => parameter.release(values[i]));
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
