import type { Attribute } from '../attributes.ts';
import { dtypes, elementCount, TF_RESOURCE } from '../dtypes.ts';
import { TensorUseError } from '../errors.ts';
import { Graph, isSymbol } from '../graph.ts';
import type { Pointer } from '../library.ts';
import { currentRuntime, withRuntime } from '../current-runtime.ts';
import type { TensorRuntime, Value } from '../runtime.ts';
import { fstatSync, ftruncateSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { Buffers, type TensorBuffer } from './buffers.ts';
import { fuse } from '../fusion/fuse.ts';
import { callPlan, outputBuffers, runCall, type CallPlan, type Schedule, type SymbolSpec } from './compiled-call.ts';

/** Identifiers of imagined tensors: above every address, below every symbol of a graph. */
const firstImagined = 2 ** 48;
/** Tensors up to this size are real: shapes, axes and scalars, whose values operations need to know their results' shapes. */
const realBytes = 4096;
/** Values made in JavaScript are kept up to this size: token ids and their like, by which code finds its way. */
const keptBytes = 2 ** 24;

/**
 * Matrices of its input's size (float32) that an operation takes from malloc, through Eigen: copies, the factors, and what they are made
 * of. Measured from 384 x 384 to 2048 x 768: 11 to 17 for singular values (BDCSVD), 4 to 5 for Q R.
 */
const eigenCopies: Readonly<Record<string, number>> = { Svd: 14, Qr: 4 };

/** A tensor without memory. */
interface Imagined {
  readonly dtype: number;
  readonly shape: readonly number[];
  readonly buffer?: TensorBuffer;
  /** Of a variable: what it holds now. */
  readonly variable?: Held;
  /** Small values made in JavaScript. */
  readonly values?: Uint8Array;
}

/** What a variable holds, once it was assigned. */
interface Held {
  dtype: number;
  shape: readonly number[];
  buffer?: TensorBuffer;
}

/**
 * Stands in for the runtime and computes nothing: every operation yields tensors of the right type and shape, and what they would take
 * of the memory is kept count of. Values read are zeros. Operations on small tensors alone are really executed, for their shapes.
 */
export class Rehearsal implements TensorRuntime {
  readonly buffers = new Buffers();
  private readonly tensors = new Map<number, Imagined>();
  private readonly functions = new Map<string, CallPlan>();
  private readonly status: Pointer;
  private next = firstImagined;
  private tracing: Graph | undefined;
  /** As many operations side by side as cores (ConfigProto's default), in an order that is the same in every rehearsal. */
  private readonly schedule: Schedule = { workers: availableParallelism(), choose: generator() };

  constructor(private readonly real: TensorRuntime) {
    this.status = real.api.TF_NewStatus() as Pointer;
  }

  get api() {
    return this.real.api;
  }
  get options() {
    return this.real.options;
  }
  get deviceName() {
    return this.real.deviceName;
  }
  get liveHandles(): number {
    return this.real.liveHandles + this.tensors.size;
  }
  get isTracing(): boolean {
    return this.tracing !== undefined;
  }
  deviceNames(): string[] {
    return this.real.deviceNames();
  }

  createTensor(bytes: Uint8Array, shape: readonly number[], dtype: number): Pointer {
    if (bytes.byteLength <= realBytes) return this.real.createTensor(bytes, shape, dtype);
    const values = bytes.byteLength <= keptBytes ? bytes : undefined;
    return this.imagine({ dtype, shape: [...shape], buffer: this.buffers.create(bytes.byteLength), values });
  }

  createTensorAt(_address: Pointer, byteLength: number, shape: readonly number[], dtype: number): Pointer {
    return this.imagine({ dtype, shape: [...shape], buffer: this.buffers.map(byteLength) });
  }

  share(handle: Pointer): Pointer {
    const tensor = this.tensors.get(handle);
    if (!tensor) return this.real.share(handle);
    return this.imagine({ ...tensor, buffer: tensor.buffer && this.buffers.share(tensor.buffer) });
  }

  delete(handle: Pointer): void {
    const tensor = this.tensors.get(handle);
    if (!tensor) return this.real.delete(handle);
    this.tensors.delete(handle);
    const buffer = tensor.variable ? tensor.variable.buffer : tensor.buffer;
    if (buffer) this.buffers.drop(buffer);
  }

  read(handle: Pointer): Uint8Array {
    if (isSymbol(handle)) throw new TensorUseError('values cannot be read inside a compiled function');
    const tensor = this.tensors.get(handle);
    if (!tensor) return this.real.read(handle);
    return tensor.values ? tensor.values.slice() : new Uint8Array(byteLength(tensor.dtype, tensor.shape));
  }

  /** A hole in the file. */
  write(handle: Pointer, file: number): void {
    const { dtype, shape } = this.describe(handle);
    ftruncateSync(file, fstatSync(file).size + byteLength(dtype, shape));
  }

  describe(id: number): Value {
    if (isSymbol(id)) {
      if (!this.tracing) throw new TensorUseError('a value of a compiled function is used outside of it');
      const { dtype, shape } = this.tracing.symbol(id);
      return { id, dtype, shape };
    }
    const tensor = this.tensors.get(id);
    return tensor ? { id, dtype: tensor.dtype, shape: [...tensor.shape] } : this.real.describe(id);
  }

  execute(name: string, attributes: readonly Attribute[], inputs: readonly number[], after?: number): Value[] {
    if (this.tracing) return this.addNode(this.tracing, name, attributes, inputs, after);
    const plan = this.functions.get(name);
    if (plan) return this.call(plan, inputs);
    const variable = this.onVariable(name, inputs);
    if (variable) return variable;
    const specs = this.infer(name, attributes, inputs);
    const isReal = inputs.every((id) => !this.tensors.has(id)) && specs.every(({ bytes }) => bytes <= realBytes);
    if (isReal) return this.real.execute(name, attributes, inputs);
    // The caller's handle and the operation both look at an input, so none can be taken over.
    const known = inputs.map((id) => ({ buffer: this.tensors.get(id)?.buffer, shape: this.describe(id).shape }));
    for (const { buffer } of known) if (buffer) this.buffers.share(buffer);
    if (name in eigenCopies) this.buffers.pool.borrow(name, this.eigenBytes(name, known[0].shape));
    const results = outputBuffers(name, known, specs, this.buffers);
    for (const { buffer } of known) if (buffer) this.buffers.drop(buffer);
    return results.map((buffer, i) => this.value(specs[i], buffer));
  }

  /** Each core decomposes a matrix of the batch. */
  private eigenBytes(name: string, shape: readonly number[]): number {
    const [batch, matrix] = [shape.slice(0, -2), shape.slice(-2)].map(elementCount);
    return eigenCopies[name] * 4 * matrix * Math.min(batch, this.schedule.workers);
  }

  executeAsync(name: string, attributes: readonly Attribute[], inputs: readonly number[]): Promise<Value[]> {
    return Promise.resolve(this.execute(name, attributes, inputs));
  }

  trace(
    name: string,
    inputs: readonly { dtype: number; shape: readonly number[] }[],
    body: (ids: number[]) => number[],
  ): boolean {
    if (this.tracing) throw new Error('internal: traces do not nest');
    const graph = (this.tracing = this.graph());
    try {
      const ids = inputs.map(({ dtype, shape }) => graph.input(dtype, shape));
      const traced = fuse(graph.traced(ids, body(ids)), this.options.device);
      const specOf = (id: number) => {
        const { dtype, shape } = traced.describe(id);
        return { dtype, shape, bytes: byteLength(dtype, shape) };
      };
      this.functions.set(name, callPlan(traced, specOf));
      return false;
    } finally {
      graph.dispose();
      this.tracing = undefined;
    }
  }

  settle(): void {}

  removeFunction(name: string): void {
    this.functions.delete(name);
  }

  private graph(): Graph {
    return new Graph(this.api, this.status, (handle) => this.api.TFE_TensorHandleResolve(handle, this.status));
  }

  private addNode(
    graph: Graph,
    type: string,
    attributes: readonly Attribute[],
    inputs: readonly number[],
    after?: number,
  ): Value[] {
    const previous = after !== undefined && isSymbol(after) ? [after] : [];
    const borrowed: Pointer[] = [];
    const given = inputs.map((id) => {
      const values = this.tensors.get(id)?.values;
      if (isSymbol(id) || !this.tensors.has(id)) return id;
      if (!values) throw new TensorUseError('a tensor from outside is used inside a compiled function: pass it as an input'); // prettier-ignore
      const { dtype, shape } = this.tensors.get(id)!;
      borrowed.push(this.real.createTensor(values, shape, dtype));
      return borrowed.at(-1)!;
    });
    const outputs = graph.node(type, attributes, given, previous);
    borrowed.forEach((handle) => this.real.delete(handle));
    return outputs.map((id) => this.describe(id));
  }

  private call(plan: CallPlan, inputs: readonly number[]): Value[] {
    const args = inputs.map((id): TensorBuffer => this.tensors.get(id)?.buffer ?? { bytes: 0, references: 1 });
    const results = runCall(plan, args, this.buffers, this.schedule);
    return plan.outputs.map((id, i) => this.value(plan.symbols.get(id)!, results[i]));
  }

  /** Operations on variables: what TensorFlow does with their buffers. */
  private onVariable(name: string, inputs: readonly number[]): Value[] | undefined {
    if (name === 'VarHandleOp') {
      const id = this.imagine({ dtype: TF_RESOURCE, shape: [], variable: { dtype: 0, shape: [] } });
      return [{ id, dtype: TF_RESOURCE, shape: [] }];
    }
    const variable = this.tensors.get(inputs[0])?.variable;
    if (!variable) return undefined;
    if (name === 'AssignVariableOp') {
      if (variable.buffer) this.buffers.drop(variable.buffer);
      const { dtype, shape } = this.describe(inputs[1]);
      const own = this.tensors.get(inputs[1])?.buffer;
      variable.buffer = own ? this.buffers.share(own) : this.buffers.create(byteLength(dtype, shape));
      Object.assign(variable, { dtype, shape });
      return [];
    }
    const { dtype, shape } = variable;
    if (name === 'ReadVariableOp')
      return [this.value({ dtype, shape, bytes: variable.buffer!.bytes }, this.buffers.share(variable.buffer!))];
    // An update in place, unless somebody else looks at the values.
    for (const id of inputs) this.own(this.tensors.get(id)?.variable);
    return [];
  }

  private own(variable: Held | undefined): void {
    if (!variable?.buffer || variable.buffer.references === 1) return;
    const copy = this.buffers.create(variable.buffer.bytes);
    this.buffers.drop(variable.buffer);
    variable.buffer = copy;
  }

  /** The types and shapes that an operation's results have, by TensorFlow's own rules. */
  private infer(name: string, attributes: readonly Attribute[], inputs: readonly number[]): SymbolSpec[] {
    const graph = this.graph();
    try {
      const ids = inputs.map((id) => {
        const { dtype, shape } = this.describe(id);
        const isKnown = !this.tensors.has(id) && byteLength(dtype, shape) <= realBytes;
        return isKnown ? id : graph.input(dtype, shape);
      });
      return graph.node(name, attributes, ids).map((id) => {
        const { dtype, shape } = graph.symbol(id);
        return { dtype, shape, bytes: byteLength(dtype, shape) };
      });
    } finally {
      graph.dispose();
    }
  }

  private value({ dtype, shape }: SymbolSpec, buffer: TensorBuffer): Value {
    return { id: this.imagine({ dtype, shape, buffer }), dtype, shape: [...shape] };
  }

  private imagine(tensor: Imagined): number {
    const id = this.next++;
    this.tensors.set(id, tensor);
    return id;
  }
}

/** Pseudo-random numbers below a count (Lehmer, 48271 modulo 2^31 - 1). */
function generator(): (count: number) => number {
  let state = 1;
  return (count) => (state = (state * 48271) % 0x7fffffff) % count;
}

function byteLength(dtype: number, shape: readonly number[]): number {
  if (dtype === TF_RESOURCE) return 0;
  const known = Object.values(dtypes).find(({ code }) => code === dtype);
  return (known?.bytes ?? 4) * elementCount(shape);
}

/** Bytes that a piece of work would have taken so far. */
export interface RehearsedMemory {
  /** Resident in TensorFlow's allocator: all that it ever wrote to, which it does not give back. */
  resident: number;
  /** What the allocator writes down of its regions. */
  bookkeeping: number;
  /** Of mapped files, what tensors alive look at. */
  mapped: number;
}

/**
 * Runs `body` without computing or allocating: what it would take of the memory is counted instead. Code that reads values gets zeros.
 * Nothing else may use TensorFlow meanwhile, and no tensor may outlive `body`, which disposes of what it made.
 */
export async function rehearse<T>(body: (memory: () => RehearsedMemory) => Promise<T>): Promise<T> {
  const rehearsal = new Rehearsal(currentRuntime());
  const { buffers } = rehearsal;
  return withRuntime(rehearsal, () =>
    body(() => {
      const { resident, bookkeeping } = buffers.pool;
      return { resident, bookkeeping, mapped: buffers.mapped };
    }),
  );
}
