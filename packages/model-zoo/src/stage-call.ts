import { cast, type AnyTensor, type CompiledFunction, type tf } from '@blockwise/tensorflow';
import type { Stage, StageWeights } from './stages.ts';

/** Runs a compiled function whose inputs are a stage's weights, as they are kept, and then `inputs`; borrows all, returns the results. */
export async function callStage(
  fn: CompiledFunction,
  stage: Stage,
  inputs: readonly tf.Tensor[],
): Promise<tf.Tensor[]> {
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
  const weights = Object.fromEntries(names.map((name, i) => [name, cast(inputs[i], computing(inputs[i]))]));
  return { weights, rest: inputs.slice(names.length) as tf.Tensor[] };
}

const computing = ({ dtype }: AnyTensor) => (/^u?int/.test(dtype) ? 'int32' : 'float32');
