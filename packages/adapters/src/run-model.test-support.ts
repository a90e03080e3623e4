import { callStage, stageInputs, type StagedModel } from '@blockwise/model-zoo';
import { compile, RawTensor, tf, type Parameter } from '@blockwise/tensorflow';

/** For tests only: logits of every position of one sequence, float32 [T, vocabulary], through compiled stages as in training. */
export async function logitsOf(
  model: StagedModel,
  ids: readonly number[],
  dropoutSeed?: number,
): Promise<Float32Array> {
  const positionIds = Int32Array.from(ids, (_, i) => i);
  const context = model.context({ batchSize: 1, length: ids.length, positionIds, dropoutSeed });
  let x: tf.Tensor = tf.tensor1d([...ids], 'int32');
  for (const [index, stage] of model.stages.entries()) {
    const fn = compile('stage', (...inputs) => {
      const { weights, rest } = stageInputs(stage, inputs);
      return [stage.forward(weights, rest[0], rest.slice(1))];
    });
    const inputs = index === model.stages.length - 1 ? [] : context;
    const [y] = await callStage(fn, stage, [x, ...inputs]);
    x.dispose();
    fn.dispose();
    x = y;
  }
  const logits = (await x.data()) as Float32Array;
  tf.dispose([x, ...context]);
  return logits;
}

export const floatsOf = (parameter: Parameter) => new Float32Array(parameter.bytes().slice().buffer);

/** Replaces a float32 parameter's values by a function of their index. */
export function fill(parameter: Parameter, value: (index: number) => number): void {
  const values = Float32Array.from({ length: parameter.elements }, (_, i) => value(i));
  parameter.replace(RawTensor.fromBytes(new Uint8Array(values.buffer), parameter.shape, 'float32'));
}

export function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) throw new Error(`${a.length} numbers beside ${b.length}`);
  return Array.from(a).reduce((most, x, i) => Math.max(most, Math.abs(x - b[i])), 0);
}
