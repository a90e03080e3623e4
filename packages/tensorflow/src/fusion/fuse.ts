import { dtypes, elementCount } from '../dtypes.ts';
import { withFewerCasts, withoutRepeats } from './lean.ts';
import { elementwise, isMadeOnce, moves, products, reductions, views } from './operation-kinds.ts';
import type { TracedFunction, TracedNode } from './traced-function.ts';

/**
 * Elements of a kernel's largest value from which compiling it pays: XLA takes 40 to 100 ms for a kernel, once for each shape, and a pass
 * over a million elements that it saves takes half a millisecond.
 */
let leastElements = 2 ** 18;

/** Runs `body` with kernels made from another number of elements on: 1 for all, Infinity for none. For tests. */
export function withFusionFrom<T>(elements: number, body: () => T): T {
  const before = leastElements;
  leastElements = elements;
  try {
    return body();
  } finally {
    leastElements = before;
  }
}

/**
 * The same function with chains of cheap operations as kernels: each reads its inputs once and writes its outputs once, where single operations
 * would write every value in between. Large operations (products, gathers, softmax) stay as they are and bound the kernels. A value that two
 * kernels need is written by the first or made twice, whichever moves fewer bytes. Operations that repeat another one are left out.
 */
export function fuse(traced: TracedFunction, device: 'cpu' | 'gpu'): TracedFunction {
  const lean = withoutRepeats(withFewerCasts(traced));
  // XLA for a GPU needs more than TensorFlow's library.
  return device === 'cpu' ? new Fusion(lean).fused() : lean;
}

/** A kernel in the making. */
interface Group {
  readonly nodes: Set<TracedNode>;
  readonly outputs: Set<number>;
}

class Fusion {
  private readonly makers = new Map<number, TracedNode>();
  private readonly users = new Map<number, TracedNode[]>();
  /** The nodes that wait for a value without using it. */
  private readonly followers = new Map<number, TracedNode[]>();
  private readonly levels = new Map<TracedNode, number>();
  /** The first group that makes each value. */
  private readonly homes = new Map<number, Group>();
  private readonly results: ReadonlySet<number>;

  constructor(private readonly traced: TracedFunction) {
    this.results = new Set(traced.outputs);
    for (const node of traced.nodes) {
      node.outputs.forEach((id) => this.makers.set(id, node));
      node.inputs.forEach((id) => this.users.set(id, [...(this.users.get(id) ?? []), node]));
      node.after.forEach((id) => this.followers.set(id, [...(this.followers.get(id) ?? []), node]));
      this.levels.set(node, this.levelOf(node));
    }
  }

  /** How many operations that bound kernels have to run before: what goes through one of them never comes back to a lower level. */
  private levelOf({ inputs, after }: TracedNode): number {
    const above = (id: number, bounds: (maker: TracedNode) => boolean) => {
      const maker = this.makers.get(id);
      return maker ? this.levels.get(maker)! + (bounds(maker) ? 1 : 0) : 0;
    };
    return Math.max(0, ...inputs.map((id) => above(id, (maker) => !this.isFusible(maker))), ...after.map((id) => above(id, () => true))); // prettier-ignore
  }

  private isFusible(node: TracedNode): boolean {
    if (node.type === 'Const') return true;
    // A transposition of the last axis reads with a stride: TensorFlow's own is faster.
    if (node.type === 'Transpose') {
      const order = this.makers.get(node.inputs[1])?.constant;
      return order !== undefined && new Int32Array(order.bytes.slice().buffer).at(-1) === order.shape[0] - 1;
    }
    // TensorFlow copies stretches, where a kernel would ask for each element which input it comes from.
    if (node.type === 'ConcatV2') {
      const makers = node.inputs.slice(0, -1).map((id) => this.makers.get(id));
      return makers.some((maker) => maker && this.isFusible(maker));
    }
    return elementwise.has(node.type) || moves.has(node.type) || isMadeOnce(node.type);
  }

  private elements(id: number): number {
    return elementCount(this.traced.describe(id).shape);
  }

  private bytes(id: number): number {
    const { dtype, shape } = this.traced.describe(id);
    return elementCount(shape) * (Object.values(dtypes).find(({ code }) => code === dtype)?.bytes ?? 4);
  }

  fused(): TracedFunction {
    const kernels = this.groups().flatMap((group) => this.split(group)).filter((group) => this.pays(group)); // prettier-ignore
    return { ...this.traced, nodes: this.assemble(kernels) };
  }

  /** For each level, what has to be made there: values that another kind of operation needs first there, or that are results. */
  private groups(): Group[] {
    const wanted = new Map<number, number[]>();
    for (const [id, node] of this.makers) {
      if (!this.isFusible(node) || node.type === 'Const') continue;
      const users = (this.users.get(id) ?? []).filter((user) => !this.isFusible(user));
      const bounds = users.map((user) => this.levels.get(user)!);
      bounds.push(...(this.followers.get(id) ?? []).map((follower) => this.levels.get(follower)! - 1));
      if (this.results.has(id)) bounds.push(bounds.length > 0 ? Infinity : this.levels.get(node)!);
      if (bounds.length === 0) continue;
      const level = Math.min(...bounds);
      wanted.set(level, [...(wanted.get(level) ?? []), id]);
    }
    return [...wanted.keys()].sort((a, b) => a - b).map((level) => this.group(wanted.get(level)!));
  }

  /** A group that makes some values, of what exists by then. */
  private group(outputs: readonly number[]): Group {
    const group: Group = { nodes: new Set(), outputs: new Set(outputs) };
    const pull = (id: number) => {
      const node = this.makers.get(id);
      if (!node || !this.isFusible(node) || group.nodes.has(node)) return;
      const home = this.homes.get(id);
      if (home && !this.isCheaperAnew(node, id)) {
        home.outputs.add(id);
        return;
      }
      group.nodes.add(node);
      node.inputs.forEach(pull);
    };
    outputs.forEach(pull);
    for (const node of group.nodes)
      for (const id of node.outputs) if (!this.homes.has(id) && node.type !== 'Const') this.homes.set(id, group);
    return group;
  }

  /** Whether to make a value that an earlier group made once more: where reading what it is made of is less than writing and reading it. */
  private isCheaperAnew(node: TracedNode, id: number): boolean {
    if (isMadeOnce(node.type)) return false;
    if (this.homes.get(id)!.outputs.has(id)) return false;
    const met = new Set<number>();
    let read = 0;
    const visit = (id: number): void => {
      if (met.has(id)) return;
      met.add(id);
      const maker = this.makers.get(id);
      if (maker?.type === 'Const') return;
      const exists = !maker || !this.isFusible(maker) || isMadeOnce(maker.type) || this.homes.get(id)?.outputs.has(id); // prettier-ignore
      if (exists) read += this.bytes(id);
      else maker.inputs.forEach(visit);
    };
    node.inputs.forEach(visit);
    return read <= 2 * this.bytes(id);
  }

  /** The parts of a group that share nothing but small values and what they read. */
  private split({ nodes, outputs }: Group): Group[] {
    const parts = new Map<TracedNode, TracedNode>();
    const root = (node: TracedNode): TracedNode => {
      const up = parts.get(node) ?? node;
      return up === node ? node : root(up);
    };
    const isSmall = (node: TracedNode) => node.outputs.every((id) => this.elements(id) < leastElements / 16);
    const isKept = ({ outputs: own }: TracedNode) => own.some((id) => outputs.has(id));
    for (const node of nodes)
      for (const id of node.inputs) {
        const maker = this.makers.get(id);
        const joins = maker && nodes.has(maker) && maker.type !== 'Const' && (!isSmall(maker) || this.reduces(maker));
        if (joins || (maker && nodes.has(maker) && isKept(maker))) parts.set(root(maker), root(node));
      }
    const groups = new Map<TracedNode, Group>();
    for (const id of outputs) {
      const node = this.makers.get(id)!;
      const key = root(node);
      const group = groups.get(key) ?? { nodes: new Set(), outputs: new Set() };
      groups.set(key, group);
      group.outputs.add(id);
      const pull = (id: number) => {
        const maker = this.makers.get(id);
        if (!maker || !nodes.has(maker) || group.nodes.has(maker)) return;
        group.nodes.add(maker);
        maker.inputs.forEach(pull);
      };
      pull(id);
    }
    return [...groups.values()];
  }

  /** Whether a reduction went before it: nothing to make twice, small as it is. */
  private reduces({ type, inputs }: TracedNode): boolean {
    const before = inputs.flatMap((id) => this.makers.get(id) ?? []).filter((maker) => this.isFusible(maker));
    return isMadeOnce(type) || before.some((maker) => this.reduces(maker));
  }

  /** A kernel is worth its compilation where it works on enough elements and spares a pass over them; products have no other way. */
  private pays({ nodes }: Group): boolean {
    if ([...nodes].some(({ type }) => products.has(type))) return true;
    const isLarge = (id: number) => this.elements(id) >= leastElements;
    const passes = [...nodes].filter(
      ({ type, inputs, outputs }) => !views.has(type) && (reductions.has(type) ? inputs : outputs).some(isLarge),
    );
    return passes.length > 1;
  }

  /** All nodes that the results depend on, kernels in place of theirs, in an order that they can run in. */
  private assemble(kernels: readonly Group[]): TracedNode[] {
    const made = new Map<number, TracedNode>(this.makers);
    for (const { nodes, outputs } of kernels) {
      const inside = this.traced.nodes.filter((node) => nodes.has(node));
      const isInside = (id: number) => nodes.has(this.makers.get(id)!);
      const kernel: TracedNode = {
        type: 'Kernel',
        attributes: [],
        inputs: [...new Set(inside.flatMap(({ inputs }) => inputs.filter((id) => !isInside(id))))],
        outputs: [...outputs],
        after: [...new Set(inside.flatMap(({ after }) => after))],
        kernel: inside,
      };
      outputs.forEach((id) => made.set(id, kernel));
    }
    const order = new Set<TracedNode>();
    const met = new Set<TracedNode>();
    const add = (id: number) => {
      const node = made.get(id);
      if (!node || met.has(node)) return;
      met.add(node);
      [...node.inputs, ...node.after].forEach(add);
      order.add(node);
    };
    this.traced.outputs.forEach(add);
    return [...order];
  }
}
