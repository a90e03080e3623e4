import type { Attribute } from '../attributes.ts';

/** A value written into a graph: all of its bytes, or the one element that fills it. */
export interface Constant {
  readonly dtype: number;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
  readonly isRepeated: boolean;
}

/** One operation of a traced function; values are identifiers. */
export interface TracedNode {
  readonly type: string;
  readonly attributes: readonly Attribute[];
  readonly inputs: readonly number[];
  readonly outputs: readonly number[];
  /** Values that have to exist before it runs, though they are no inputs. */
  readonly after: readonly number[];
  /** What a node of type Const holds. */
  readonly constant?: Constant;
  /** The operations of a kernel (type Kernel), which run as one; their last values are the outputs. */
  readonly kernel?: readonly TracedNode[];
}

/** A traced function: nodes in the order of their making, which is one that they can run in. */
export interface TracedFunction {
  readonly inputs: readonly number[];
  readonly outputs: readonly number[];
  readonly nodes: readonly TracedNode[];
  describe(id: number): { readonly dtype: number; readonly shape: readonly number[] };
}
