import { sparseSoftmaxCrossEntropy, tf } from '@blockwise/tensorflow';
import type { StagedModel } from './stages.ts';

/** For tests only: reading golden files of models, and running a model as they were made. */

/** tools/golden/README.md, Encodings. */
export interface Encoded {
  shape: number[];
  float32: string;
}
export const bytesOf = ({ float32 }: Encoded) => Uint8Array.from(Buffer.from(float32, 'base64'));
export const valuesOf = (encoded: Encoded) => new Float32Array(bytesOf(encoded).buffer);

export function contextOf(model: StagedModel, ids: number[][]): tf.Tensor[] {
  const [batchSize, length] = [ids.length, ids[0].length];
  const positionIds = Int32Array.from({ length: batchSize * length }, (_, i) => i % length);
  return model.context({ batchSize, length, positionIds });
}

/** Runs all stages at once; weights given by Hugging Face name. */
export function logitsOf(
  model: StagedModel,
  weights: Record<string, tf.Tensor>,
  ids: number[][],
  context = contextOf(model, ids),
) {
  return model.stages.reduce<tf.Tensor>(
    (x, stage) => {
      const own = [...stage.parameters].map(([local, parameter]) => [local, weights[parameter.name]]);
      return stage.forward(Object.fromEntries(own), x, context);
    },
    tf.tensor1d(ids.flat(), 'int32'),
  ) as tf.Tensor2D;
}

/** Mean cross-entropy of the labelled next tokens, and its gradient by each weight. */
export function lossAndGradients(
  model: StagedModel,
  weights: Record<string, tf.Tensor>,
  ids: number[][],
  labels: number[][],
) {
  const next = labels.flatMap((row) => [...row.slice(1), -100]);
  const kept = next.flatMap((label, row) => (label === -100 ? [] : [row]));
  const targets = tf.tensor1d(kept.map((row) => next[row]), 'int32'); // prettier-ignore
  const meanLoss = tf.customGrad((logits, save) => {
    const [loss, gradient] = sparseSoftmaxCrossEntropy(logits as tf.Tensor2D, targets);
    (save as unknown as tf.GradSaveFunc)([gradient]);
    return {
      value: tf.mean(loss),
      gradFunc: (dy, saved) => tf.mul((saved as tf.Tensor[])[0], tf.div(dy, kept.length)),
    };
  });
  const names = Object.keys(weights);
  const context = contextOf(model, ids);
  const { value, grads } = tf.valueAndGrads((...values) => {
    const named = Object.fromEntries(names.map((name, i) => [name, values[i]]));
    return meanLoss(tf.gather(logitsOf(model, named, ids, context), tf.tensor1d(kept, 'int32'))) as tf.Scalar;
  })(Object.values(weights));
  return { loss: value.dataSync()[0], gradients: new Map(names.map((name, i) => [name, grads[i].dataSync()])) };
}

export function largestError(found: ArrayLike<number>, expected: Float32Array): number {
  const scale = expected.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  return expected.reduce((most, x, i) => Math.max(most, Math.abs(found[i] - x)), 0) / scale;
}
