import { attribute, int64s, type Attribute } from './attributes.ts';
import { dtypes } from './dtypes.ts';
import { currentRuntime } from './current-runtime.ts';
import type { Value } from './runtime.ts';

/** Runtime.execute() of any operation by its name, but for what TensorFlow 2.21 gets wrong. Inputs are borrowed. */
export function executeOperation(name: string, attributes: readonly Attribute[], inputs: readonly number[]): Value[] {
  if (name !== 'BatchMatMulV2') return currentRuntime().execute(name, attributes, inputs);
  const operands = withEqualLeadingAxes(inputs);
  try {
    return currentRuntime().execute(name, attributes, operands);
  } finally {
    operands.forEach((id, i) => id !== inputs[i] && currentRuntime().delete(id));
  }
}

/**
 * The operands of a product, copied where they would be broadcast: oneDNN, as TensorFlow calls it, writes outside of its memory for some of these
 * products ([13, 1, 3, 4] x [4, 16]; tensorflow/tensorflow#117700).
 */
function withEqualLeadingAxes(inputs: readonly number[]): number[] {
  const shapes = inputs.map((id) => currentRuntime().describe(id).shape);
  const leading = commonShape(shapes.map((shape) => shape.slice(0, -2)));
  return inputs.map((id, i) => {
    const whole = leading && [...leading, ...shapes[i].slice(-2)];
    return whole && whole.join() !== shapes[i].join() ? broadcast(id, whole) : id;
  });
}

/** The shape that shapes are broadcast to; undefined where TensorFlow will refuse them. */
function commonShape(shapes: readonly (readonly number[])[]): number[] | undefined {
  const rank = Math.max(...shapes.map(({ length }) => length));
  const padded = shapes.map((shape) => [...new Array<number>(rank - shape.length).fill(1), ...shape]);
  const common = Array.from({ length: rank }, (_, axis) => padded.find((shape) => shape[axis] !== 1)?.[axis] ?? 1);
  const fits = padded.every((shape) => shape.every((size, axis) => size === 1 || size === common[axis]));
  return fits ? common : undefined;
}

function broadcast(id: number, shape: readonly number[]): number {
  const runtime = currentRuntime();
  const { int64 } = dtypes;
  const dims = runtime.createTensor(new Uint8Array(int64s(shape).buffer), [shape.length], int64.code);
  const types = [attribute.type('T', runtime.describe(id).dtype), attribute.type('Tidx', int64.code)];
  const [copy] = runtime.execute('BroadcastTo', types, [id, dims]);
  runtime.delete(dims);
  return copy.id;
}
