import type * as tf from '@tensorflow/tfjs-core';
import { attribute, type Attribute } from './attributes.ts';
import { idOf, wrap } from './backend.ts';
import { dtypes, elementCount, type DType } from './dtypes.ts';
import { idOfAny, RawTensor, type AnyTensor } from './raw-tensor.ts';
import { currentRuntime } from './runtime.ts';

/** Entries of a tensor by their places in row-major order: `count` adjacent ones, on past the end from the beginning; or any, int32 [k]. */
export type Entries = { from: number; count: number } | { indices: tf.Tensor1D };

/** The entries' values, [k] of the tensor's dtype. Borrows all. */
export function takeEntries<Values extends AnyTensor>(x: Values, entries: Entries): Values {
  const dtype = x.dtype as DType;
  const id = flatly(dtype, ({ flatten, slice, gather, concat }) => {
    const flat = flatten(idOfAny(x));
    if ('indices' in entries) return gather(flat, idOf(entries.indices));
    const [tail, head] = stretches(entries, elementCount(x.shape));
    return concat([slice(flat, ...tail), ...(head ? [slice(flat, ...head)] : [])]);
  });
  const { shape } = currentRuntime().describe(id);
  return (x instanceof RawTensor ? new RawTensor(id, dtype, shape) : wrap(currentRuntime().describe(id))) as Values;
}

/** A new tensor: `x` with `values`, [k] of its dtype, in place of the entries. Borrows all. */
export function replaceEntries(x: RawTensor, entries: Entries, values: RawTensor): RawTensor {
  const id = flatly(x.dtype, ({ flatten, slice, scatter, concat, shaped }) => {
    const flat = flatten(x.id);
    if ('indices' in entries) return shaped(scatter(flat, idOf(entries.indices), values.id), x.shape);
    const elements = elementCount(x.shape);
    const [[from, count], head] = stretches(entries, elements);
    const pieces = head
      ? [slice(values.id, count, head[1]), slice(flat, head[1], from - head[1]), slice(values.id, 0, count)]
      : [slice(flat, 0, from), values.id, slice(flat, from + count, elements - from - count)];
    return shaped(concat(pieces), x.shape);
  });
  return new RawTensor(id, x.dtype, x.shape);
}

/** [first, number] of the entries up to the end and, where they go past it, of those from the beginning. */
function stretches({ from, count }: { from: number; count: number }, elements: number): [number, number][] {
  const tail = Math.min(count, elements - from);
  return count > tail ? [[from, tail], [0, count - tail]] : [[from, tail]]; // prettier-ignore
}

/** Runs `body` on operations over flat tensors of one dtype; what it returns is the caller's, all else is freed. */
function flatly(dtype: DType, body: (operations: ReturnType<typeof flatOperations>) => number): number {
  const owned = new Set<number>();
  try {
    const runtime = currentRuntime();
    const result = body(flatOperations(dtype, (id) => (owned.add(id), id)));
    // A tensor that is only passed through stays its owner's.
    return owned.delete(result) ? result : runtime.share(result);
  } finally {
    owned.forEach((id) => currentRuntime().delete(id));
  }
}

function flatOperations(dtype: DType, own: (id: number) => number) {
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
    slice: (x: number, from: number, count: number) =>
      run('Slice', [type('T'), index('Index')], x, tensor([from], [1]), tensor([count], [1])),
    gather: (x: number, indices: number) =>
      run('GatherV2', [type('Tparams'), index('Tindices'), index('Taxis')], x, indices, tensor([0], [])),
    scatter: (x: number, indices: number, values: number) =>
      run('TensorScatterUpdate', [type('T'), index('Tindices')], x, column(indices), values),
    concat: (pieces: readonly number[]) =>
      pieces.length === 1
        ? pieces[0]
        : run('ConcatV2', [type('T'), index('Tidx'), attribute.int('N', pieces.length)], ...pieces, tensor([0], [])),
  };
}
