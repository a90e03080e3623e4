import type { AnyTensor, DType, Parameter, tf } from '@blockwise/tensorflow';
import type { DynamicLossScaler } from './loss-scaler.ts';

/** A linear map of a gradient, where its result is all that an update needs: GaLore's gradients in rank r. */
export interface Projection {
  readonly shape: readonly number[];
  /**
   * The projection of a gradient G, or of a linear layer's G = dy^T x from its factors alone, float32 or bfloat16 dy [N, outputs] and x [N, inputs]:
   * a fraction of the multiplications that G takes. Borrows them; returns float32.
   */
  of(...gradientOrFactors: readonly AnyTensor[]): tf.Tensor;
}

/**
 * What the training loop asks of every optimizer. It sees named parameters, never a model. A step is: set `learningRate`, `beginStep()`,
 * one `update()` for each name in `trainable`, `endStep()`.
 */
export interface Optimizer {
  /** Which turn of a block optimizer it was made for: each has random numbers of its own. */
  visit?: number;
  /** A block optimizer's blocks, and the one that it trains at present. */
  readonly blocks?: readonly unknown[];
  readonly currentBlock?: { readonly index: number };
  /** Names it changes at present: the loop computes exactly these gradients. A block optimizer replaces the set in endStep(). */
  readonly trainable: ReadonlySet<string>;
  /** Of the next updates; a scheduler sets it before each step. */
  learningRate: number;
  beginStep(): void;
  /**
   * Applies the gradient (float32 or bfloat16, the parameter's shape or what projection() makes of it) the moment it exists, or by endStep() where
   * work is shared with other updates (GaLore's new projections); borrows it. Once per name and step.
   */
  update(name: string, gradient: AnyTensor): void;
  /** What update() can take in place of a gradient in the step that began, where that is less than the gradient. */
  projection?(name: string): Projection | undefined;
  /**
   * Gradients must not outlive update() (LOMO): where their common norm is clipped, the loop runs backward twice, for the norm and for the
   * updates, instead of keeping them.
   */
  readonly fused?: boolean;
  /** Where float16 gradients are imitated: the loop rounds them by it, skips a step whose gradients overflow, and tells it of every step. */
  readonly lossScaler?: DynamicLossScaler | undefined;
  /** Block optimizers may switch here: parameters go to rest, others get their masters. */
  endStep(): void;
  /** Copies of everything a resumed run needs beside the weights at rest, bit for bit. */
  state(): OptimizerState;
  /** Takes up where state() was called. Load the weights before. @throws UserError where the state belongs to another setup. */
  restore(state: OptimizerState): void;
  /** Bytes held now: float32 masters, and states such as moments. */
  memory(): { masters: number; states: number };
  /** Frees the states. Parameters stay as they are, masters included: those belong to them. */
  dispose(): void;
}

/** What a JSON file can hold. */
export type JsonValue = null | boolean | number | string | JsonValue[] | JsonObject;
export type JsonObject = { [name: string]: JsonValue };

/** A tensor outside the engine, little-endian. */
export interface StateTensor {
  dtype: DType;
  shape: readonly number[];
  bytes: Uint8Array;
}

/** Scalars as JSON, and tensors by name: `<parameter>.master`, `<parameter>.exp_avg` and so on, with PyTorch's state names. */
export interface OptimizerState {
  scalars: JsonObject;
  tensors: Map<string, StateTensor>;
}

/**
 * Makes an optimizer over some parameters, which get their float32 masters at once: what adamW(), adam() and sgd() return, and what a
 * BlockOptimizer calls afresh at every switch. With compat 'official' per-parameter settings are overridden (see WeightDecayOptions).
 */
export type OptimizerFactory = (parameters: readonly Parameter[], compat?: 'official') => Optimizer;
