import { attribute } from '../attributes.ts';
import { dtypes, elementCount } from '../dtypes.ts';
import { fuse } from './fuse.ts';
import type { TracedFunction, TracedNode } from './traced-function.ts';

/** A function over values of a shape, written down by hand. */
export class Sketch {
  private readonly values = new Map<number, { dtype: number; shape: readonly number[] }>();
  private readonly nodes: TracedNode[] = [];
  readonly inputs: number[] = [];

  private value(dtype: 'float32' | 'bfloat16', shape: readonly number[]): number {
    const id = this.values.size;
    this.values.set(id, { dtype: dtypes[dtype].code, shape });
    return id;
  }

  input(dtype: 'float32' | 'bfloat16' = 'float32', shape = [512, 512]): number {
    this.inputs.push(this.value(dtype, shape));
    return this.inputs.at(-1)!;
  }

  node(type: string, inputs: number[], { dtype = 'float32', shape = [512, 512], after = [] }: NodeOptions = {}) {
    const outputs = [this.value(dtype, shape)];
    const attributes = type === 'Cast' ? [attribute.type('DstT', dtypes[dtype].code)] : [];
    this.nodes.push({ type, attributes, inputs, outputs, after });
    return outputs[0];
  }

  fused(...outputs: number[]) {
    const describe: TracedFunction['describe'] = (id) => this.values.get(id)!;
    const { nodes } = fuse({ inputs: this.inputs, outputs, nodes: this.nodes, describe }, 'cpu');
    const typesOf = (nodes: readonly TracedNode[] = []) => nodes.map(({ type }) => type).join(' ');
    return {
      nodes,
      order: typesOf(nodes),
      kernels: nodes.flatMap(({ kernel }) => (kernel ? [typesOf(kernel)] : [])),
      bytesRead: nodes
        .filter(({ kernel }) => kernel)
        .map(({ inputs }) => inputs.reduce((sum, id) => sum + this.bytes(id), 0) / 2 ** 20),
    };
  }

  bytes(id: number): number {
    const { dtype, shape } = this.values.get(id)!;
    return elementCount(shape) * (dtype === dtypes.bfloat16.code ? 2 : 4);
  }
}
interface NodeOptions {
  dtype?: 'float32' | 'bfloat16';
  shape?: number[];
  after?: number[];
}
