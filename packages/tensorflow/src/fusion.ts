import type { Attribute } from './attributes.ts';
import { dtypes, elementCount } from './dtypes.ts';

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

const words = (text: string) => new Set(text.split(' '));

/** Each element of the result is a function of one element of each input (or of one that is broadcast to it). */
const elementwise = words(
  'Abs Add AddN AddV2 Cast Equal Exp Floor Greater GreaterEqual Less LessEqual Log Log1p LogicalAnd LogicalNot LogicalOr Maximum Minimum ' +
    'Bitcast BitwiseAnd BitwiseXor RightShift Mul Neg NotEqual OnesLike Pow RealDiv Reciprocal Relu Round Rsqrt Select SelectV2 Sigmoid Sign Sqrt Square SquaredDifference Sub Tanh ZerosLike',
);
/** The same elements in other places. */
const moves = words(
  'BroadcastTo ConcatV2 ExpandDims Fill Identity PadV2 Range Reshape Slice Split SplitV Squeeze Tile Transpose',
);
const reductions = words('L2Loss Max Mean Min Prod Sum');
/** Products that XLA makes, and TensorFlow by itself cannot. */
const products = words('XlaDotV2');
/** Operations that XLA does not repeat for each value that needs their result. */
const dear = words('Exp Log Log1p Pow Sigmoid Tanh');
/** What is worth writing down rather than making twice. */
const isMadeOnce = (type: string) => reductions.has(type) || products.has(type);
/** Not a pass over their inputs: they look at them in another shape, or at a part. */
const views = words('Const ExpandDims Identity Reshape Slice Split SplitV Squeeze');

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

/** A value that a kernel writes: when it exists, and the written ones that it takes the place of, each element of one in the place of its own. */
interface Written {
  readonly bytes: number;
  readonly isResult: boolean;
  readonly made: number;
  lastRead: number;
  readonly inPlace: Set<Written>;
}

/**
 * Bytes that a kernel takes while it runs, as XLA plans them. Its values are made by their depth, whatever is ready first; one lives until it is
 * read last. The largest are placed first: in a result's memory while the result does not exist yet, else where no other value lives.
 */
export function scratchBytes({ kernel = [], outputs }: TracedNode, bytesOf: (id: number) => number): number {
  const values = writtenValues(kernel, new Set(outputs), bytesOf);
  const meet = (a: Written, b: Written) => {
    const [first, second] = a.made < b.made ? [a, b] : [b, a];
    return first.lastRead > second.made || (first.lastRead === second.made && !second.inPlace.has(first));
  };
  const hosts = values.filter(({ isResult }) => isResult).map((result) => [result]);
  const placed: { value: Written; from: number; to: number }[] = [];
  const others = values.filter(({ isResult }) => !isResult).sort((a, b) => b.bytes - a.bytes);
  for (const value of others) {
    const host = hosts.find((guests) => value.bytes <= guests[0].bytes && !guests.some((guest) => meet(guest, value)));
    if (host) host.push(value);
    else {
      const around = placed.filter((other) => meet(other.value, value)).sort((a, b) => a.from - b.from);
      let from = 0;
      for (const other of around) if (other.from < from + value.bytes) from = Math.max(from, other.to);
      placed.push({ value, from, to: from + value.bytes });
    }
  }
  return Math.max(0, ...placed.map(({ to }) => to));
}

/** What a kernel writes, results included, in the order in which XLA makes it. */
function writtenValues(
  kernel: readonly TracedNode[],
  results: ReadonlySet<number>,
  bytesOf: (id: number) => number,
): Written[] {
  const written = writtenDown(kernel, results);
  /** Of each value: the written ones that it is made of, with none written in between; those of them whose elements keep their places; its depth. */
  const origins = new Map<number, { own: Set<number>; inPlace: Set<number>; depth: number }>();
  const made: { id: number; depth: number; own: Set<number>; inPlace: Set<number> }[] = [];
  for (const { type, inputs, outputs } of kernel) {
    const given = inputs.flatMap((id) => origins.get(id) ?? []);
    const own = new Set(given.flatMap(({ own }) => [...own]));
    const keepsPlaces = elementwise.has(type) || type === 'Reshape' || type === 'Identity';
    const moved = new Set(given.flatMap(({ own, inPlace }) => [...own].filter((id) => !inPlace.has(id))));
    const inPlace = new Set(keepsPlaces ? [...own].filter((id) => !moved.has(id)) : []);
    const depth = Math.max(0, ...given.map(({ depth }) => depth));
    for (const id of outputs) {
      const isWritten = written.has(id) || results.has(id) || reductions.has(type);
      if (isWritten) made.push({ id, depth, own, inPlace });
      const itself = new Set([id]);
      origins.set(id, isWritten ? { own: itself, inPlace: itself, depth: depth + 1 } : { own, inPlace, depth });
    }
  }
  const values = new Map<number, Written>();
  made.sort((a, b) => a.depth - b.depth);
  made.forEach(({ id, own, inPlace }, i) => {
    for (const source of own) {
      const value = values.get(source)!;
      value.lastRead = Math.max(value.lastRead, i);
    }
    const bytes = bytesOf(id);
    const replaced = [...inPlace].map((source) => values.get(source)!).filter((value) => value.bytes === bytes);
    const isResult = results.has(id);
    values.set(id, { bytes, isResult, made: i, lastRead: isResult ? Infinity : i, inPlace: new Set(replaced) });
  });
  return [...values.values()];
}

/**
 * What XLA writes down within a kernel beside its results: what it is going to multiply, the products, and what is dear to make and serves several
 * of those.
 */
function writtenDown(kernel: readonly TracedNode[], results: ReadonlySet<number>): Set<number> {
  const made = new Set(kernel.filter(({ type }) => !views.has(type)).flatMap(({ outputs }) => outputs));
  const factors = kernel.filter(({ type }) => products.has(type)).flatMap(({ inputs, outputs }) => [...inputs, ...outputs]); // prettier-ignore
  const written = new Set(factors.filter((id) => made.has(id) && !results.has(id)));
  /** Of each value, the results, written and reduced values that are made of it with none of these in between. */
  const served = new Map<number, Set<number>>();
  for (const { type, inputs, outputs } of [...kernel].reverse()) {
    const ends = outputs.map((id) => served.get(id) ?? new Set<number>());
    if (dear.has(type) && ends[0].size > 1 && !results.has(outputs[0])) written.add(outputs[0]);
    const own = outputs.flatMap((id, i) => (written.has(id) || results.has(id) || reductions.has(type) ? [id] : [...ends[i]])); // prettier-ignore
    for (const id of inputs) served.set(id, new Set([...(served.get(id) ?? []), ...own]));
  }
  return written;
}

/** What a node does to its inputs: equal texts do equal things. */
export const actionOf = ({ type, attributes, constant }: TracedNode) =>
  JSON.stringify([type, attributes, constant && { ...constant, bytes: [...constant.bytes] }]);

/** Leaves out each operation that repeats an earlier one, as TensorFlow does before it runs a function. */
function withoutRepeats(traced: TracedFunction): TracedFunction {
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
function withFewerCasts(traced: TracedFunction): TracedFunction {
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
