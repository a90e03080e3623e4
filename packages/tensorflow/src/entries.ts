import type * as tf from '@tensorflow/tfjs-core';
import { attribute, type Attribute } from './attributes.ts';
import { idOf, wrap } from './backend.ts';
import { dtypes, elementCount, type DType } from './dtypes.ts';
import { idOfAny, RawTensor, type AnyTensor } from './raw-tensor.ts';
import { currentRuntime } from './current-runtime.ts';

/** `count` adjacent ones of some things in a row, on past the end from the beginning. */
export interface Stretch {
  from: number;
  count: number;
}
/** Entries of a tensor by their places in row-major order: adjacent ones, or any, int32 [k]. */
export type Entries = Stretch | { indices: tf.Tensor1D };

/** The entries' values, [k] of the tensor's dtype. Borrows all. */
export function takeEntries<Values extends AnyTensor>(x: Values, entries: Entries): Values {
  const id = withOperations(x.dtype as DType, ({ flatten, slice, gather, concat }) => {
    const flat = flatten(idOfAny(x));
    if ('indices' in entries) return gather(flat, idOf(entries.indices));
    return concat(stretches(entries, elementCount(x.shape)).map(([from, count]) => slice(flat, [from], [count])));
  });
  return wrapLike(x, id);
}

/** Columns of a matrix [N, M] as [N, count] of its dtype. Borrows it. */
export function takeColumns<Values extends AnyTensor>(x: Values, columns: Stretch): Values {
  const [N, M] = x.shape;
  const id = withOperations(x.dtype as DType, ({ slice, concat }) => {
    const parts = stretches(columns, M).map(([from, count]) => slice(idOfAny(x), [0, from], [N, count]));
    return concat(parts, 1);
  });
  return wrapLike(x, id);
}

function wrapLike<Values extends AnyTensor>(x: Values, id: number): Values {
  const value = currentRuntime().describe(id);
  return (x instanceof RawTensor ? new RawTensor(id, x.dtype, value.shape) : wrap(value)) as Values;
}

/** A new tensor: `x` with `values`, [k] of its dtype, in place of the entries. Borrows all. */
export function replaceEntries(x: RawTensor, entries: Entries, values: RawTensor): RawTensor {
  const id = withOperations(x.dtype, ({ flatten, slice, scatter, concat, shaped }) => {
    const flat = flatten(x.id);
    if ('indices' in entries) return shaped(scatter(flat, idOf(entries.indices), values.id), x.shape);
    const elements = elementCount(x.shape);
    const [[from, count], head] = stretches(entries, elements);
    const pieces = head
      ? [slice(values.id, [count], [head[1]]), slice(flat, [head[1]], [from - head[1]]), slice(values.id, [0], [count])]
      : [slice(flat, [0], [from]), values.id, slice(flat, [from + count], [elements - from - count])];
    return shaped(concat(pieces), x.shape);
  });
  return new RawTensor(id, x.dtype, x.shape);
}

/** [first, number] of the entries up to the end and, where they go past it, of those from the beginning. */
function stretches({ from, count }: Stretch, elements: number): [number, number][] {
  const tail = Math.min(count, elements - from);
  return count > tail ? [[from, tail], [0, count - tail]] : [[from, tail]]; // prettier-ignore
}

/** Runs `body` on operations over tensors of one dtype; what it returns is the caller's, all else is freed. */
function withOperations(dtype: DType, body: (operations: ReturnType<typeof operationsOn>) => number): number {
  const owned = new Set<number>();
  try {
    const runtime = currentRuntime();
    const result = body(operationsOn(dtype, (id) => (owned.add(id), id)));
    // A tensor that is only passed through stays its owner's.
    return owned.delete(result) ? result : runtime.share(result);
  } finally {
    owned.forEach((id) => currentRuntime().delete(id));
  }
}

function operationsOn(dtype: DType, own: (id: number) => number) {
  const int32 = dtypes.int32.code;
  const type = (name: string): Attribute => attribute.type(name, dtypes[dtype].code);
  const index = (name: string): Attribute => attribute.type(name, int32);
  const run = (name: string, attributes: Attribute[], ...inputs: number[]) =>
    own(currentRuntime().execute(name, attributes, inputs)[0].id);
  const tensor = (values: readonly number[], shape: number[]) =>
    own(currentRuntime().createTensor(new Uint8Array(Int32Array.from(values).buffer), shape, int32));
  const shaped = (x: number, shape: readonly number[]) =>
    run('Reshape', [type('T'), index('Tshape')], x, tensor(shape, [shape.length]));
  const column = (x: number) => run('Reshape', [index('T'), index('Tshape')], x, tensor([-1, 1], [2]));
  return {
    shaped,
    flatten: (x: number) => shaped(x, [-1]),
    slice: (x: number, from: readonly number[], count: readonly number[]) =>
      run('Slice', [type('T'), index('Index')], x, tensor(from, [from.length]), tensor(count, [count.length])),
    gather: (x: number, indices: number) =>
      run('GatherV2', [type('Tparams'), index('Tindices'), index('Taxis')], x, indices, tensor([0], [])),
    scatter: (x: number, indices: number, values: number) =>
      run('TensorScatterUpdate', [type('T'), index('Tindices')], x, column(indices), values),
    concat: (pieces: readonly number[], axis = 0) =>
      pieces.length === 1
        ? pieces[0]
        : run('ConcatV2', [type('T'), index('Tidx'), attribute.int('N', pieces.length)], ...pieces, tensor([axis], [])),
  };
}
