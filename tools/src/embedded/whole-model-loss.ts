import { compile, cast, RawTensor, sparseSoftmaxCrossEntropy, tf } from '@blockwise/tensorflow';
import type { Llama } from '@blockwise/model-zoo';

/** Rows and tokens of every batch, and the norm to which gradients are clipped (all together, as torch's clip_grad_norm_ does). */
export interface LossOptions {
  batchSize: number;
  length: number;
  maxGradNorm: number;
}

/** Loss and clipped gradients of a batch: the whole model as one compiled call. */
export class WholeModelLoss {
  private readonly names: string[];
  private readonly context: tf.Tensor[];
  private readonly gradients;
  private readonly loss;

  constructor(
    private readonly model: Llama,
    private readonly options: LossOptions,
  ) {
    const { batchSize, length, maxGradNorm } = options;
    this.names = [...model.parameters.keys()];
    const positionIds = Int32Array.from({ length: batchSize * length }, (_, i) => i % length);
    this.context = model.context({ batchSize, length, positionIds });
    const lossOf = (inputs: tf.Tensor[], weights: tf.Tensor[]): tf.Scalar => {
      const [ids, labels, ...context] = inputs;
      const named = new Map(this.names.map((name, i) => [name, weights[i]]));
      const logits = model.stages.reduce((x, stage) => {
        const own = [...stage.parameters].map(([local, { name }]) => [local, named.get(name)!]);
        return stage.forward(Object.fromEntries(own), x, context);
      }, ids);
      return meanCrossEntropy(logits as tf.Tensor2D, labels as tf.Tensor1D);
    };
    const inputCount = 2 + this.context.length;
    const parted = (all: unknown[]) => [all.slice(0, inputCount), all.slice(inputCount)] as [tf.Tensor[], tf.Tensor[]];
    this.loss = compile('pretrain_loss', (...all) => [lossOf(...parted(all))]);
    this.gradients = compile('pretrain_gradients', (...all) => {
      const [inputs, weights] = parted(all);
      const { value, grads } = tf.valueAndGrads((...values) => lossOf(inputs, values))(weights);
      const norm = tf.sqrt(tf.addN(grads.map((gradient) => tf.sum(tf.square(gradient)))));
      const scale = tf.minimum(1, tf.div(maxGradNorm, tf.add(norm, 1e-6)));
      return [value, norm, ...grads.map((gradient) => tf.mul(gradient, scale))];
    });
  }

  /** Mean loss in nats over rows, with the weights as they are; `update` gets each clipped gradient, borrowed. */
  run(
    rows: readonly Int32Array[],
    update?: (name: string, gradient: tf.Tensor) => void,
  ): { loss: number; norm: number } {
    const { length } = this.options;
    const flat = (offset: number) =>
      tf.tensor1d(Int32Array.from(rows.flatMap((row) => [...row.subarray(offset, offset + length)])), 'int32');
    const [ids, labels] = [flat(0), flat(1)];
    const parameters = this.names.map((name) => this.model.parameters.get(name)!);
    const acquired = parameters.map((parameter) => parameter.acquire());
    const weights = acquired.map((values) => (values instanceof RawTensor ? cast(values) : values));
    const [loss, norm, ...gradients] = (update ? this.gradients : this.loss)(ids, labels, ...this.context, ...weights);
    // Reads have to go before the updates, which would copy the masters otherwise.
    weights.forEach((values) => values.dispose());
    gradients.forEach((gradient, i) => update!(this.names[i], gradient));
    const result = { loss: loss.dataSync()[0], norm: norm?.dataSync()[0] ?? 0 };
    tf.dispose([ids, labels, loss, norm, ...gradients].filter(Boolean));
    return result;
  }

  dispose(): void {
    tf.dispose(this.context);
    this.loss.dispose();
    this.gradients.dispose();
  }
}

/** Mean cross-entropy over all rows, in nats. */
function meanCrossEntropy(logits: tf.Tensor2D, labels: tf.Tensor1D): tf.Scalar {
  const mean = tf.customGrad((logits, save) => {
    const [losses, gradient] = sparseSoftmaxCrossEntropy(logits as tf.Tensor2D, labels);
    (save as unknown as tf.GradSaveFunc)([gradient]);
    return {
      value: tf.mean(losses),
      gradFunc: (dy, saved) => tf.mul((saved as tf.Tensor[])[0], tf.div(dy, labels.shape[0])),
    };
  });
  return mean(logits) as tf.Scalar;
}
