import type * as tf from '@tensorflow/tfjs-core';
import { dtypes, elementCount, type DType } from './dtypes.ts';
import { TensorUseError } from './errors.ts';
import { cast, takeRaw, type AnyTensor, type RawTensor, type Rounding, type Streaming } from './raw-tensor.ts';
import { Variable } from './variable.ts';

/** Bytes that parameters take in memory now, together: see Parameter.byteLength. */
export function totalBytes(parameters: Iterable<Pick<Parameter, 'byteLength'>>): number {
  return [...parameters].reduce((sum, { byteLength }) => sum + byteLength, 0);
}

/** A weight's life: at rest in its storage dtype while frozen, a float32 master variable while it is trained. */
export class Parameter {
  private stored: RawTensor | undefined;
  private variable: Variable | undefined;
  /** Of the stored values that the master came from: a streamed weight goes back to a file. */
  private streaming: Streaming | undefined;

  /** Takes over `stored`. `name` is the weight's Hugging Face name. */
  constructor(
    readonly name: string,
    stored: RawTensor,
  ) {
    this.stored = stored;
    this.shape = stored.shape;
    this.storageDtype = stored.dtype;
  }

  readonly shape: readonly number[];
  readonly storageDtype: DType;

  get elements(): number {
    return elementCount(this.shape);
  }

  /** Of its values now: the storage dtype, or the master's float32. */
  get dtype(): DType {
    return this.variable ? 'float32' : this.storageDtype;
  }

  /** Bytes it takes in memory now: its stored values or its master, not the optimizer's states. */
  get byteLength(): number {
    return this.elements * dtypes[this.dtype].bytes;
  }

  /** Whether it leaves memory after each use: while it is at rest, over a streamed file. */
  get isStreamed(): boolean {
    return this.stored?.streaming !== undefined;
  }

  /** Its stored values: those of a parameter that is not trained. */
  private get atRest(): RawTensor {
    if (!this.stored) throw new TensorUseError(`${this.name} is used after dispose() or take()`);
    return this.stored;
  }

  /** The float32 master, while the parameter is trained. */
  get master(): Variable | undefined {
    return this.variable;
  }

  /**
   * The values to compute with: the stored tensor, or a read of the master. Give it back with release() before the next update, or that
   * update copies the whole master.
   * @throws TensorUseError after dispose() or take(), as activate(), bytes(), replace() and take() do
   */
  acquire(): AnyTensor {
    return this.variable ? this.variable.read() : this.atRest;
  }

  /** Ends the use of what acquire() returned. */
  release(values: AnyTensor): void {
    if (values !== this.stored) values.dispose();
    else this.stored.streaming?.afterUse();
  }

  /** Makes the float32 master from the stored values, which are freed: full precision from here on. Nothing where it exists. */
  activate(): void {
    if (this.variable) return;
    const { atRest } = this;
    const values = cast(atRest);
    this.variable = new Variable(values);
    values.dispose();
    this.streaming = atRest.streaming;
    this.streaming?.afterUse();
    atRest.dispose();
    this.stored = undefined;
  }

  /** Rounds the master to the storage dtype and frees it. Nothing where the parameter is at rest. */
  deactivate(rounding?: Rounding): void {
    if (!this.variable) return;
    const stored = this.toStorage(this.variable, rounding);
    this.stored = this.streaming?.successor(stored) ?? stored;
    this.variable.dispose();
    this.variable = undefined;
  }

  private toStorage(variable: Variable, rounding?: Rounding): RawTensor {
    return takeRaw(variable.read(), this.storageDtype, rounding);
  }

  /** A copy of the values in the storage dtype (a trained one rounded to nearest), little-endian: what a model file holds. */
  bytes(): Uint8Array {
    if (!this.variable) return this.atRest.bytes();
    const rounded = this.toStorage(this.variable);
    const bytes = rounded.bytes();
    rounded.dispose();
    return bytes;
  }

  /** Replaces the values; takes over `stored`. A trained parameter gets them into its master. */
  replace(stored: RawTensor): void {
    if (stored.shape.join() !== this.shape.join())
      throw new RangeError(`${this.name}: shape [${stored.shape}] cannot replace [${this.shape}]`);
    if (this.variable) {
      const values: tf.Tensor = cast(stored);
      this.variable.assign(values);
      values.dispose();
      stored.dispose();
      return;
    }
    if (stored.dtype !== this.storageDtype)
      throw new RangeError(`${this.name}: ${stored.dtype} values cannot replace ${this.storageDtype} ones`);
    const { atRest } = this;
    this.stored = atRest.streaming?.successor(stored) ?? stored;
    atRest.dispose();
  }

  /** Hands over the values, at rest (see deactivate()), which the caller disposes; the parameter has none from here on. */
  take(): RawTensor {
    this.deactivate();
    const { atRest } = this;
    this.stored = undefined;
    return atRest;
  }

  dispose(): void {
    this.stored?.dispose();
    this.variable?.dispose();
    this.stored = this.variable = undefined;
  }
}
