import type * as tf from '@tensorflow/tfjs-core';
import { attribute, type Attribute } from './attributes.ts';
import { idOf } from './backend.ts';
import { dtypes, elementCount, type DType } from './dtypes.ts';
import { TensorUseError } from './errors.ts';
import { idOfAny, wrapAny, type AnyTensor } from './raw-tensor.ts';
import { currentRuntime } from './current-runtime.ts';

/** TensorFlow's name for a resource that nobody else can look up (tensorflow/core/framework/resource_handle.h). */
const anonymous = 'cd2c89b7-88b7-44c8-ad83-06c2a9158347';
const T = attribute.type('T', dtypes.float32.code);
const locked = attribute.bool('use_locking', false);

/**
 * A resource variable: master weights and optimizer states, which TensorFlow's update operations change in place. Float32 but for packed
 * states, whose type is that of their initial values. While a tensor from read() is alive, an update copies the whole variable: dispose reads first.
 */
export class Variable<Values extends AnyTensor = tf.Tensor> {
  private handle: number | undefined;
  private readonly dims: number[];
  readonly dtype: DType;
  private readonly type: Attribute;

  /** Starts with the values of `initial`; borrows it (dispose it, or the first update copies). */
  constructor(initial: Values) {
    this.dims = [...initial.shape];
    this.dtype = initial.dtype as DType;
    this.type = attribute.type('dtype', dtypes[this.dtype].code);
    const attributes = [
      this.type,
      attribute.shape('shape', this.dims),
      attribute.string('container', ''),
      attribute.string('shared_name', anonymous),
    ];
    this.handle = currentRuntime().execute('VarHandleOp', attributes, [])[0].id;
    this.assign(initial);
  }

  private get resource(): number {
    if (this.handle === undefined)
      throw new TensorUseError(`a variable of shape [${this.dims}] is used after dispose()`);
    return this.handle;
  }

  get shape(): readonly number[] {
    return this.dims;
  }

  get byteLength(): number {
    return dtypes[this.dtype].bytes * elementCount(this.dims);
  }

  /** The current values as a tensor that shares the variable's buffer; the caller disposes it before the next update. */
  read(): Values {
    return wrapAny(currentRuntime().execute('ReadVariableOp', [this.type], [this.resource])[0]) as Values;
  }

  /** Replaces the values (the shape stays); borrows `values`. */
  assign(values: Values): void {
    if (values.shape.join() !== this.dims.join() || values.dtype !== this.dtype)
      throw new RangeError(
        `a ${this.dtype} variable of shape [${this.dims}] cannot hold a ${values.dtype} tensor of shape [${values.shape}]`,
      );
    this.run('AssignVariableOp', [this.type, attribute.bool('validate_shape', false)], values);
  }

  /** Subtracts `delta` in place. */
  subtract(delta: Values): void {
    this.run('AssignSubVariableOp', [this.type], delta);
  }

  /** Adds `delta` in place. */
  add(delta: Values): void {
    this.run('AssignAddVariableOp', [this.type], delta);
  }

  private run(op: string, attributes: Attribute[], values: Values): void {
    currentRuntime().execute(op, attributes, [this.resource, idOfAny(values)]);
  }

  /** Frees the memory. */
  dispose(): void {
    if (this.handle === undefined) return;
    currentRuntime().delete(this.handle);
    this.handle = undefined;
  }

  /**
   * One Adam update in place, TensorFlow's form: with a = learningRate * sqrt(1 - beta2Power) / (1 - beta1Power),
   * m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2, p = p - a m / (sqrt(v) + epsilon)
   * (tensorflow/core/kernels/training_ops.cc, ResourceApplyAdam). `scalars` are float32 scalars, borrowed.
   */
  applyAdam(m: Variable, v: Variable, scalars: AdamScalars, gradient: tf.Tensor): void {
    const { beta1Power, beta2Power, learningRate, beta1, beta2, epsilon } = scalars;
    const inputs = [beta1Power, beta2Power, learningRate, beta1, beta2, epsilon, gradient].map(idOf);
    const states = [this.resource, m.resource, v.resource];
    currentRuntime().execute('ResourceApplyAdam', [T, locked, nesterov(false)], [...states, ...inputs]);
  }

  /** p = p - learningRate * gradient, in place (ResourceApplyGradientDescent); `learningRate` is a float32 scalar. */
  applyGradientDescent(learningRate: tf.Tensor, gradient: tf.Tensor): void {
    const inputs = [this.resource, idOf(learningRate), idOf(gradient)];
    currentRuntime().execute('ResourceApplyGradientDescent', [T, locked], inputs);
  }

  /**
   * a = momentum a + g; p = p - learningRate * (nesterov ? g + momentum a : a), in place (ResourceApplyMomentum, whose Nesterov form is
   * PyTorch's).
   */
  applyMomentum(
    accumulator: Variable,
    learningRate: tf.Tensor,
    gradient: tf.Tensor,
    momentum: tf.Tensor,
    useNesterov: boolean,
  ): void {
    const inputs = [this.resource, accumulator.resource, idOf(learningRate), idOf(gradient), idOf(momentum)];
    currentRuntime().execute('ResourceApplyMomentum', [T, locked, nesterov(useNesterov)], inputs);
  }
}

const nesterov = (value: boolean) => attribute.bool('use_nesterov', value);

/** The scalars of an Adam update; powers are beta^t. */
export interface AdamScalars {
  beta1Power: tf.Tensor;
  beta2Power: tf.Tensor;
  learningRate: tf.Tensor;
  beta1: tf.Tensor;
  beta2: tf.Tensor;
  epsilon: tf.Tensor;
}
