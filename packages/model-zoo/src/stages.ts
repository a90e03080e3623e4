import type { Parameter, tf } from '@blockwise/tensorflow';

/**
 * A model as training sees it: an ordered list of stages, each a function of its own weights and the output of the stage below.
 * Letters: B sequences, T tokens in each, N = B * T rows, H hidden size.
 */

/**
 * What every stage of a batch may look at beside its input: positions and attention mask, in a fixed order; behind them an adapter may put its
 * own (the seed of its dropout). Borrowed.
 */
export type Context = readonly tf.Tensor[];

/** A stage's weights by the name they have inside the stage (`self_attn.q_proj.weight`): float32, or int32 codes of quantised ones. */
export type StageWeights = Readonly<Record<string, tf.Tensor>>;

/**
 * How a linear module of a stage maps its rows: float32 [N, inputs] -> [N, outputs]. A model calls it for each of its projections by the
 * name that the module has in the stage (`self_attn.q_proj`); adapters and quantised layers are other functions of this type.
 */
export type LinearLayer = (name: string, x: tf.Tensor2D, weights: StageWeights) => tf.Tensor2D;

/** One step of the walk through a model. */
export interface Stage {
  /** Its Hugging Face prefix: `model.layers.3`. */
  readonly name: string;
  /** Stages of one kind compute the same function of weights of the same shapes, so they share compiled functions. */
  readonly kind: string;
  /** Name inside the stage -> the parameter. A tied weight may appear in two stages. */
  readonly parameters: ReadonlyMap<string, Parameter>;
  /** How its linear modules map their rows when nothing is dropped, where that is not y = x W^T + b: for decoders. */
  readonly linear?: LinearLayer;
  /** [outputs, inputs] of each linear module, where its weight is not kept in that shape or is none: see linearShapes(). */
  readonly linearShapes?: ReadonlyMap<string, readonly [outputs: number, inputs: number]>;
  /** Bytes of an element of what its linear modules multiply and make, as products and factors are kept: 4 unless said. */
  readonly operandBytes?: number;
  /**
   * The stage's function, in TensorFlow.js operations. The first stage takes token ids, int32 [N]; the others take float32 [N, H]; all
   * return float32 [N, H] but the last, which works on each row alone and returns logits, float32 [rows, vocabulary].
   * @param linear in place of y = x W^T + b
   */
  forward(weights: StageWeights, x: tf.Tensor, context: Context, linear?: LinearLayer): tf.Tensor;
}

/** The shape of one batch and what attends to what. */
export interface BatchLayout {
  readonly batchSize: number;
  readonly length: number;
  /** int32 [B * T]: each token's position in its own example. Without segmentIds every row counts from 0, padding included. */
  readonly positionIds: Int32Array;
  /** int32 [B * T], for packed rows: tokens attend within their segment; 0 is padding. Absent: one example a row, padded on the right. */
  readonly segmentIds?: Int32Array | undefined;
  /** Of a training batch: an integer of its own for every batch of a run, from which dropout draws. Absent: nothing is dropped. */
  readonly dropoutSeed?: number | undefined;
}

/** A model that training, evaluation and generation can walk through. */
export interface StagedModel {
  /** Every weight once, by Hugging Face name. */
  readonly parameters: ReadonlyMap<string, Parameter>;
  /** Embedding, layers in order, head. */
  readonly stages: readonly Stage[];
  /** The context tensors of a batch; the caller disposes them. */
  context(layout: BatchLayout): tf.Tensor[];
  /** Frees every weight. */
  dispose(): void;
}
