import { dtypes } from '../dtypes.ts';
import type { TracedFunction, TracedNode } from './traced-function.ts';

/** What a node does to its inputs: equal texts do equal things. */
export const actionOf = ({ type, attributes, constant }: TracedNode) =>
  JSON.stringify([type, attributes, constant && { ...constant, bytes: [...constant.bytes] }]);

/** Leaves out each operation that repeats an earlier one, as TensorFlow does before it runs a function. */
export function withoutRepeats(traced: TracedFunction): TracedFunction {
  const first = new Map<string, readonly number[]>();
  const replaced = new Map<number, number>();
  const now = (id: number) => replaced.get(id) ?? id;
  const nodes = traced.nodes.flatMap((node): TracedNode[] => {
    const own = { ...node, inputs: node.inputs.map(now), after: node.after.map(now) };
    const key = `${actionOf(node)} ${own.inputs} ${own.after}`;
    const earlier = first.get(key);
    if (!earlier) first.set(key, node.outputs);
    else node.outputs.forEach((id, i) => replaced.set(id, earlier[i]));
    return earlier ? [] : [own];
  });
  return { ...traced, outputs: traced.outputs.map(now), nodes };
}

/**
 * Casts put where they cost least: a bfloat16 value that was made float32 and is rounded back is itself, and a gather of cast values is the cast
 * of a gather, so that nobody needs all of them cast.
 */
export function withFewerCasts(traced: TracedFunction): TracedFunction {
  const casts = new Map(traced.nodes.filter(({ type }) => type === 'Cast').map((node) => [node.outputs[0], node]));
  const described = new Map<number, ReturnType<TracedFunction['describe']>>();
  const describe = (id: number) => described.get(id) ?? traced.describe(id);
  const replaced = new Map<number, number>();
  const now = (id: number) => replaced.get(id) ?? id;
  let next = 1 + Math.max(0, ...traced.inputs, ...traced.nodes.flatMap(({ outputs }) => outputs));
  const nodes = traced.nodes.flatMap((given): TracedNode[] => {
    const node = { ...given, inputs: given.inputs.map(now), after: given.after.map(now) };
    const cast = casts.get(node.inputs[0]);
    if (!cast) return [node];
    const source = now(cast.inputs[0]);
    const { dtype } = describe(source);
    const isRoundTrip = node.type === 'Cast' && describe(node.outputs[0]).dtype === dtype && dtype === dtypes.bfloat16.code; // prettier-ignore
    if (isRoundTrip) {
      replaced.set(node.outputs[0], source);
      return [];
    }
    if (node.type !== 'GatherNd') return [node];
    const gathered = next++;
    described.set(gathered, { dtype, shape: traced.describe(node.outputs[0]).shape });
    const attributes = node.attributes.map((one) => (one.name === 'Tparams' ? { ...one, value: dtype } : one));
    return [
      { ...node, attributes, inputs: [source, ...node.inputs.slice(1)], outputs: [gathered] },
      { ...cast, inputs: [gathered], outputs: node.outputs, after: [] },
    ];
  });
  return { ...traced, outputs: traced.outputs.map(now), nodes, describe };
}
