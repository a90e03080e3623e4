import * as tf from '@tensorflow/tfjs-core';
import { attribute } from './attributes.ts';
import { idOf, wrap } from './backend.ts';
import { dtypeOfCode, dtypes, elementCount, type DType } from './dtypes.ts';
import { TensorUseError } from './errors.ts';
import { currentRuntime } from './current-runtime.ts';
import type { Value } from './runtime.ts';

/** What is done for a weight that is to take no memory between its uses. */
export interface Streaming {
  /** A use is over: its pages may leave memory. */
  afterUse(): void;
  /** A streamed tensor with the values of one that comes in its place; consumes that. */
  successor(values: RawTensor): RawTensor;
}

/**
 * A tensor of any dtype outside TensorFlow.js's bookkeeping: weights at rest, in 16 bit or less, perhaps over a mapped file.
 * Owned by who made it; `dispose()` frees it. tf.tidy() does not see it.
 */
export class RawTensor {
  private handle: number | undefined;

  /** Takes over a handle; use the functions below to make one. */
  constructor(
    handle: number,
    readonly dtype: DType,
    readonly shape: readonly number[],
    private readonly onDispose?: () => void,
    readonly streaming?: Streaming,
  ) {
    this.handle = handle;
  }

  /** A tensor holding a copy of little-endian `bytes`. Throws where their number does not fit the shape. */
  static fromBytes(bytes: Uint8Array, shape: readonly number[], dtype: DType): RawTensor {
    const expected = elementCount(shape) * dtypes[dtype].bytes;
    if (bytes.byteLength !== expected)
      throw new RangeError(`${dtype}[${shape}] takes ${expected} bytes, found ${bytes.byteLength}`);
    return new RawTensor(currentRuntime().createTensor(bytes, shape, dtypes[dtype].code), dtype, shape);
  }

  /** The handle or, inside a compiled function, the symbol; borrowed. */
  get id(): number {
    if (this.handle === undefined)
      throw new TensorUseError(`a ${this.dtype}[${this.shape}] tensor is used after dispose()`);
    return this.handle;
  }

  get byteLength(): number {
    return byteLengthOf(this);
  }

  /** A copy of the contents, little-endian. */
  bytes(): Uint8Array {
    return currentRuntime().read(this.id);
  }

  dispose(): void {
    if (this.handle === undefined) return;
    currentRuntime().delete(this.handle);
    this.handle = undefined;
    this.onDispose?.();
  }
}

/** What operations and compiled functions take. */
export type AnyTensor = tf.Tensor | RawTensor;

/** The handle or symbol of either kind of tensor; borrowed. */
export function idOfAny(x: AnyTensor): number {
  return x instanceof RawTensor ? x.id : idOf(x);
}

/** Bytes that either kind of tensor's values take. */
export const byteLengthOf = (x: AnyTensor): number => elementCount(x.shape) * dtypes[x.dtype as DType].bytes;

/** Dtypes that TensorFlow.js itself computes in. */
const native = new Set<number>([dtypes.float32.code, dtypes.int32.code, dtypes.bool.code]);

/** A result as a TensorFlow.js tensor where TensorFlow.js knows its dtype, else as a RawTensor. */
export function wrapAny(value: Value): AnyTensor {
  return native.has(value.dtype) ? wrap(value) : new RawTensor(value.id, dtypeOfCode(value.dtype), value.shape);
}

/** Another tensor over the same values, in their dtype: it outlives `x`. */
export function share(x: AnyTensor): AnyTensor {
  const runtime = currentRuntime();
  return wrapAny(runtime.describe(runtime.share(idOfAny(x))));
}

function castValue(id: number, from: DType, to: DType, after?: number): Value {
  const runtime = currentRuntime();
  if (from === to) return runtime.describe(runtime.share(id));
  const attributes = [attribute.type('SrcT', dtypes[from].code), attribute.type('DstT', dtypes[to].code)];
  return runtime.execute('Cast', attributes, [id], after)[0];
}

/**
 * A new TensorFlow.js tensor, float32 or (of whole numbers) int32, with the values of `x`. A float32 RawTensor is copied: it may lie over a read-only file, and a variable
 * made of the result is written in place. Inside a compiled function nothing is copied.
 */
export function cast(x: AnyTensor, dtype: 'float32' | 'int32' = 'float32'): tf.Tensor {
  const runtime = currentRuntime();
  if (x instanceof RawTensor && x.dtype === 'float32' && dtype === 'float32' && !runtime.isTracing)
    return wrap(runtime.execute('DeepCopy', [attribute.type('T', dtypes.float32.code)], [x.id])[0]);
  return wrap(castValue(idOfAny(x), x.dtype as DType, dtype));
}

/** cast(x) of a RawTensor that is not needed any more: frees it. */
export function takeFloat32(x: RawTensor): tf.Tensor {
  const values = cast(x);
  x.dispose();
  return values;
}

/**
 * As cast(x), for weights: inside a compiled function, whose operations run as soon as their inputs exist, the copy waits until
 * `previous` exists. Without it all weights of a function would be copied at its start and held together.
 */
export function castAfter(x: AnyTensor, previous: tf.Tensor, dtype: 'float32' | 'int32' = 'float32'): tf.Tensor {
  return wrap(castValue(idOfAny(x), x.dtype as DType, dtype, idOf(previous)));
}

/** Rows `from` (included) to `to` (excluded) of a tensor of any dtype, without a copy where alignment allows. */
export function sliceRows(x: RawTensor, from: number, to: number): RawTensor {
  const [, ...inner] = x.shape;
  const begin = tf.tensor1d([from, ...inner.map(() => 0)], 'int32');
  const size = tf.tensor1d([to - from, ...inner], 'int32');
  const attributes = [attribute.type('T', dtypes[x.dtype].code), attribute.type('Index', dtypes.int32.code)];
  const { id, shape } = currentRuntime().execute('Slice', attributes, [x.id, idOf(begin), idOf(size)])[0];
  tf.dispose([begin, size]);
  return new RawTensor(id, x.dtype, shape);
}

/** Tensors of one dtype as one, along their first axis; consumes them. A single one is returned as it is. */
export function concatRows(parts: readonly AnyTensor[]): AnyTensor {
  if (parts.length === 1) return parts[0];
  const runtime = currentRuntime();
  const axis = tf.scalar(0, 'int32');
  const types = [dtypes[parts[0].dtype as DType].code, dtypes.int32.code];
  const attributes = [
    attribute.int('N', parts.length),
    ...['T', 'Tidx'].map((name, i) => attribute.type(name, types[i])),
  ];
  const [whole] = runtime.execute('ConcatV2', attributes, [...parts.map(idOfAny), idOf(axis)]);
  axis.dispose();
  parts.forEach((part) => part.dispose());
  return wrapAny(whole);
}

/** Rows of a tensor of any dtype by their indices, int32 [N], as float32 [N, ...]: only these rows are cast. */
export function gatherRows(x: RawTensor, indices: tf.Tensor1D): tf.Tensor {
  const runtime = currentRuntime();
  const axis = tf.scalar(0, 'int32');
  const int32 = dtypes.int32.code;
  const attributes = [
    attribute.type('Tparams', dtypes[x.dtype].code),
    attribute.type('Tindices', int32),
    attribute.type('Taxis', int32),
  ];
  const rows = runtime.execute('GatherV2', attributes, [x.id, idOf(indices), idOf(axis)])[0];
  axis.dispose();
  const values = castValue(rows.id, x.dtype, 'float32');
  runtime.delete(rows.id);
  return wrap(values);
}

/** How a float32 value becomes a 16-bit one. */
export type Rounding = { mode: 'nearest' } | { mode: 'stochastic'; seed: number };

/**
 * A new RawTensor of the given dtype with the values of a float32 `x` (one buffer with `x` where the dtype is float32).
 * Stochastic rounding (bfloat16 only) rounds up with the probability of the part cut off, so its mean is the float32 value and small
 * updates are not lost on average.
 * @throws RangeError where stochastic rounding is asked for another dtype.
 */
export function toRaw(x: tf.Tensor, dtype: DType, rounding: Rounding = { mode: 'nearest' }): RawTensor {
  const exact = dtype === 'float32';
  if (rounding.mode === 'stochastic' && !exact) return roundStochastically(x, dtype, rounding.seed);
  const { id, shape } = castValue(idOf(x), x.dtype as DType, dtype);
  return new RawTensor(id, dtype, shape);
}

/** toRaw(x) of a tensor that is not needed any more: frees it. */
export function takeRaw(x: tf.Tensor, dtype: DType, rounding?: Rounding): RawTensor {
  const raw = toRaw(x, dtype, rounding);
  x.dispose();
  return raw;
}

const UINT32 = 22;

/** bfloat16 is the upper half of float32: add 16 random bits to the lower half, let them carry, keep the upper half. */
function roundStochastically(x: tf.Tensor, dtype: DType, seed: number): RawTensor {
  if (dtype !== 'bfloat16') throw new RangeError(`stochastic rounding is made for bfloat16, not ${dtype}`);
  const runtime = currentRuntime();
  const owned: number[] = [];
  const keep = (id: number) => (owned.push(id), id);
  const one = (name: string, attributes: ReturnType<typeof attribute.type>[], ...inputs: number[]) =>
    keep(runtime.execute(name, attributes, inputs)[0].id);
  const tensor = (values: Uint32Array | Int32Array | Uint16Array, shape: number[], code: number) =>
    keep(runtime.createTensor(new Uint8Array(values.buffer), shape, code));
  const constant = (value: number) => tensor(Uint32Array.of(value), [], UINT32);
  const ints = (...values: number[]) => tensor(Int32Array.from(values), [values.length], dtypes.int32.code);
  const T = attribute.type('T', UINT32);
  const int32 = dtypes.int32.code;
  const randomAttributes = [
    attribute.type('dtype', UINT32),
    attribute.type('T', int32),
    attribute.type('Tseed', int32),
  ];
  try {
    const random = one('StatelessRandomUniformFullInt', randomAttributes, ints(...x.shape), ints(seed | 0, 0x626c6b));
    const noise = one('BitwiseAnd', [T], random, constant(0xffff));
    const bits = one('Bitcast', [attribute.type('T', dtypes.float32.code), attribute.type('type', UINT32)], idOf(x));
    const sum = one('AddV2', [T], bits, noise);
    const upper = one('RightShift', [T], sum, constant(16));
    const half = one('Cast', [attribute.type('SrcT', UINT32), attribute.type('DstT', dtypes.uint16.code)], upper);
    const types = [attribute.type('T', dtypes.uint16.code), attribute.type('type', dtypes.bfloat16.code)];
    const rounded = one('Bitcast', types, half);
    // The carry would turn some NaNs (a GPU's 0x7fffffff) into zero.
    const isNaN = one('IsNan', [attribute.type('T', dtypes.float32.code)], idOf(x));
    const nan = tensor(Uint16Array.of(0x7fc0), [], dtypes.bfloat16.code);
    const select = [attribute.type('T', dtypes.bfloat16.code)];
    const result = runtime.execute('SelectV2', select, [isNaN, nan, rounded])[0];
    return new RawTensor(result.id, 'bfloat16', result.shape);
  } finally {
    owned.forEach((id) => runtime.delete(id));
  }
}
