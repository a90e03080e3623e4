import { elementCount } from '../dtypes.ts';
import type { TracedFunction, TracedNode } from '../fusion/traced-function.ts';
import type { Buffers, TensorBuffer } from './buffers.ts';
import { scratchBytes } from './kernel-scratch.ts';

/** A value of a compiled function: which buffer it takes is known when the function runs. */
export interface SymbolSpec {
  readonly dtype: number;
  readonly shape: readonly number[];
  readonly bytes: number;
}

/** One operation of a compiled function; ids are those of symbols, constants are left out. */
export interface CallNode extends Pick<TracedNode, 'type' | 'inputs' | 'outputs' | 'after'> {
  /** Bytes that it takes while it runs, beside its outputs. */
  readonly scratch: number;
}

/** What a trace left: enough to tell when each buffer of a call comes and goes. */
export interface CallPlan {
  readonly inputs: readonly number[];
  readonly outputs: readonly number[];
  readonly nodes: readonly CallNode[];
  readonly symbols: ReadonlyMap<number, SymbolSpec>;
}

/** The plan of a traced function's calls. */
export function callPlan(traced: TracedFunction, specOf: (id: number) => SymbolSpec): CallPlan {
  const { inputs, outputs, nodes } = traced;
  const constants = new Set(nodes.flatMap(({ type, outputs }) => (type === 'Const' ? outputs : [])));
  const own = (ids: readonly number[]) => ids.filter((id) => !constants.has(id));
  const symbols = new Map([...inputs, ...nodes.flatMap(({ outputs }) => outputs)].map((id) => [id, specOf(id)]));
  const kept = nodes
    .filter(({ type }) => type !== 'Const')
    .map((node) => ({
      ...{ type: node.type, inputs: own(node.inputs), outputs: node.outputs, after: own(node.after) },
      scratch: scratchBytes(node, (id) => specOf(id).bytes),
    }));
  return { inputs, outputs, nodes: kept, symbols };
}

/** Their outputs are other views of their first input's buffer, or that buffer changed in place. */
const views = new Set('Identity Reshape Squeeze ExpandDims StopGradient Bitcast PreventGradient InplaceAdd'.split(' '));

/** Element by element: the result takes an input's buffer where nobody else needs it (forward_input_or_allocate_output). */
const elementwise = new Set(
  'Add AddV2 AddN Sub Mul RealDiv Div Maximum Minimum SquaredDifference Pow Neg Square Sqrt Rsqrt Exp Log Log1p Sigmoid Tanh Abs Sign Round Floor Softmax BiasAdd Relu Reciprocal'.split(
    ' ',
  ),
);

/** The buffers that an operation's outputs take, by its kernel's rules; new ones come from `buffers`. */
export function outputBuffers(
  type: string,
  inputs: readonly { buffer?: TensorBuffer; shape: readonly number[] }[],
  outputs: readonly SymbolSpec[],
  buffers: Buffers,
): TensorBuffer[] {
  const first = inputs[0]?.buffer;
  if (views.has(type) && first) return [buffers.share(first)];
  // Rows of a matrix are a stretch of its buffer.
  if (type === 'Slice' && first && isRowSlice(inputs[0].shape, outputs[0])) return [buffers.share(first)];
  return outputs.map((output) => {
    const source = forwarded(type, inputs, output);
    return source ? buffers.share(source) : buffers.create(output.bytes);
  });
}

function forwarded(
  type: string,
  inputs: readonly { buffer?: TensorBuffer; shape: readonly number[] }[],
  { shape, bytes }: SymbolSpec,
): TensorBuffer | undefined {
  const candidates = type === 'TensorScatterSub' ? inputs.slice(0, 1) : elementwise.has(type) ? inputs.slice(0, 2) : [];
  const free = candidates.find(
    ({ buffer, shape: own }) => buffer?.references === 1 && buffer.bytes === bytes && String(own) === String(shape),
  );
  return free?.buffer;
}

function isRowSlice(from: readonly number[], { shape, bytes }: SymbolSpec): boolean {
  const rowBytes = bytes / Math.max(shape[0], 1);
  return elementCount(from.slice(1)) === elementCount(shape.slice(1)) && rowBytes % 64 === 0;
}

/** How a machine runs the operations of a call. */
export interface Schedule {
  /** Operations that run side by side. */
  readonly workers: number;
  /** Which of `count` operations that are ready comes next; the executor promises no order. */
  choose(count: number): number;
}

/**
 * Runs a function's operations as TensorFlow's executor does: some side by side; an operation's thread goes on with one that it made ready,
 * and the others wait for a thread. Buffers are held and dropped as there: an operation's inputs go when it ends and nobody else waits for them.
 * @returns a buffer for each output, the caller's
 */
export function runCall(
  plan: CallPlan,
  args: readonly TensorBuffer[],
  buffers: Buffers,
  schedule: Schedule,
): TensorBuffer[] {
  const call = new Call(plan, buffers);
  call.run(args, schedule);
  return plan.outputs.map((id) => call.held.get(id)!);
}

class Call {
  /** The buffer of each value so far. */
  readonly held = new Map<number, TensorBuffer>();
  private readonly order: Order;
  /** For how many values each operation still waits. */
  private readonly missing: Map<CallNode, number>;

  constructor(
    private readonly plan: CallPlan,
    private readonly buffers: Buffers,
  ) {
    this.order = orderOf(plan);
    this.missing = new Map(this.order.missing);
  }

  run(args: readonly TensorBuffer[], { workers, choose }: Schedule): void {
    const take = (nodes: CallNode[]) => nodes.splice(choose(nodes.length), 1)[0];
    const queue = this.order.nodes.filter((node) => this.missing.get(node) === 0);
    this.plan.inputs.forEach((id, i) => queue.push(...this.arrive(id, args[i])));
    const running: { node: CallNode; results: TensorBuffer[]; scratch: TensorBuffer[]; end: number }[] = [];
    let time = 0;
    const start = (node: CallNode) => {
      // In XLA's order: the results below the scratch, which leaves one free stretch beyond them.
      const results = this.begin(node);
      const scratch = node.scratch > 0 ? [this.buffers.create(node.scratch)] : [];
      running.push({ node, results, scratch, end: time + cost(node, this.plan) });
    };
    while (queue.length > 0 || running.length > 0) {
      while (queue.length > 0 && running.length < workers) start(take(queue));
      const first = running.reduce((a, b) => (b.end < a.end ? b : a));
      running.splice(running.indexOf(first), 1);
      time = first.end;
      first.scratch.forEach((buffer) => this.buffers.drop(buffer));
      const ready = this.end(first.node, first.results);
      if (ready.length > 0) start(take(ready));
      queue.push(...ready);
    }
  }

  /** Makes a value known; returns the operations that waited for it alone. */
  private arrive(id: number, buffer: TensorBuffer): CallNode[] {
    this.held.set(id, buffer);
    buffer.references += this.order.uses.get(id) ?? 0;
    return (this.order.waiting.get(id) ?? []).filter((node) => {
      this.missing.set(node, this.missing.get(node)! - 1);
      return this.missing.get(node) === 0;
    });
  }

  private begin({ type, inputs, outputs }: CallNode): TensorBuffer[] {
    const { symbols } = this.plan;
    const given = inputs.map((id) => ({ buffer: this.held.get(id), shape: symbols.get(id)!.shape }));
    return outputBuffers(type, given, outputs.map((id) => symbols.get(id)!), this.buffers); // prettier-ignore
  }

  private end({ inputs, outputs }: CallNode, results: readonly TensorBuffer[]): CallNode[] {
    const ready = outputs.flatMap((id, i) => this.arrive(id, results[i]));
    results.forEach((buffer) => this.buffers.drop(buffer));
    for (const id of inputs) this.buffers.drop(this.held.get(id)!);
    return ready;
  }
}

/** Time of an operation in bytes of memory traffic; 16 floating-point operations take as long as one byte. */
function cost({ type, inputs, outputs }: CallNode, { symbols }: CallPlan): number {
  if (views.has(type)) return 0;
  const bytes = [...inputs, ...outputs].reduce((sum, id) => sum + symbols.get(id)!.bytes, 0);
  if (!/MatMul/.test(type)) return bytes;
  // Of an m x k by k x n product the three sizes' product is (m k n)^2.
  const sizes = [...inputs, ...outputs].map((id) => elementCount(symbols.get(id)!.shape));
  return bytes + (2 * Math.sqrt(sizes.reduce((product, size) => product * size, 1))) / 16;
}

/** What waits for what in a call. */
interface Order {
  /** The operations that the outputs depend on. */
  readonly nodes: readonly CallNode[];
  /** How often each value is looked at. */
  readonly uses: ReadonlyMap<number, number>;
  /** The operations that wait for a value, and for how many values each waits at first. */
  readonly waiting: ReadonlyMap<number, readonly CallNode[]>;
  readonly missing: ReadonlyMap<CallNode, number>;
}

const orders = new WeakMap<CallPlan, Order>();

/** The order of a plan, worked out once for all of its calls. */
function orderOf(plan: CallPlan): Order {
  const known = orders.get(plan);
  if (known) return known;
  const nodes = neededNodes(plan);
  const uses = new Map<number, number>();
  for (const id of [...nodes.flatMap(({ inputs }) => inputs), ...plan.outputs]) uses.set(id, (uses.get(id) ?? 0) + 1);
  const waiting = new Map<number, CallNode[]>();
  const missing = new Map<CallNode, number>();
  for (const node of nodes) {
    const before = new Set([...node.inputs, ...node.after]);
    missing.set(node, before.size);
    for (const id of before) waiting.set(id, [...(waiting.get(id) ?? []), node]);
  }
  const order = { nodes, uses, waiting, missing };
  orders.set(plan, order);
  return order;
}

/** The operations that the outputs depend on: TensorFlow drops the others. */
function neededNodes(plan: CallPlan): CallNode[] {
  const wanted = new Set(plan.outputs);
  const nodes: CallNode[] = [];
  for (const node of [...plan.nodes].reverse()) {
    if (!node.outputs.some((id) => wanted.has(id))) continue;
    node.inputs.forEach((id) => wanted.add(id));
    node.after.forEach((id) => wanted.add(id));
    nodes.unshift(node);
  }
  return nodes;
}
