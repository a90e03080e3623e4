import { UserError } from '@blockwise/errors';
import { writeSync } from 'node:fs';
import { attribute, int64s, setAttributes, type Attribute } from './attributes.ts';
import { typeName } from './dtypes.ts';
import { TensorUseError, tensorFlowError } from './errors.ts';
import { fuse } from './fusion/fuse.ts';
import { actionOf } from './fusion/lean.ts';
import type { TracedFunction, TracedNode } from './fusion/traced-function.ts';
import { Graph, isSymbol } from './graph.ts';
import { cleanLibraryPages } from './library-pages.ts';
import { cstring, libc, type Pointer, type TensorFlowFunctions } from './library.ts';

/** Where and how operations run. */
export interface RuntimeOptions {
  device: 'cpu' | 'gpu';
  /** Threads inside one operation; 0 leaves it to TensorFlow (one per core). */
  threads: number;
}

/** What an operation returned: a handle (or a symbol while tracing), its TF_DataType code and its shape. */
export interface Value {
  id: number;
  dtype: number;
  shape: number[];
}

const mustCompile = attribute.bool('_XlaMustCompile', true);

/** The most outputs an operation may have: a layer's gradients fit many times over. */
const maximumOutputs = 1024;

/**
 * One TensorFlow eager context, and the place where every operation passes: executed at once, or, inside a trace, added to a graph.
 * It knows handles, shapes and types; it knows nothing of TensorFlow.js, of who owns a handle, or of models.
 */
export class Runtime {
  readonly deviceName: string;
  private readonly dropLibraryPages: () => void;
  private readonly context: Pointer;
  private readonly status: Pointer;
  private readonly outputs = new BigInt64Array(maximumOutputs);
  private readonly outputCount = new Int32Array(1);
  private graph: Graph | undefined;
  private handles = 0;

  constructor(
    readonly api: TensorFlowFunctions,
    readonly options: RuntimeOptions,
    libraries: readonly string[],
  ) {
    this.dropLibraryPages = cleanLibraryPages(libraries);
    this.status = api.TF_NewStatus();
    const contextOptions = api.TFE_NewContextOptions();
    const config = configProto(options);
    api.TFE_ContextOptionsSetConfig(contextOptions, config, config.length, this.status);
    this.check('TFE_ContextOptionsSetConfig', []);
    this.context = api.TFE_NewContext(contextOptions, this.status);
    api.TFE_DeleteContextOptions(contextOptions);
    this.check('TFE_NewContext', []);
    const gpu = this.deviceNames().find((name) => name.includes('GPU:0'));
    if (options.device === 'gpu' && !gpu)
      throw new UserError(
        'device gpu was asked for, but TensorFlow sees no GPU.\n  What to do: check the driver with nvidia-smi and that the CUDA libraries ' +
          'of the tensorflow[and-cuda] wheel are on LD_LIBRARY_PATH, or use device cpu.',
      );
    const cpu = this.deviceNames().find((name) => name.includes('CPU:0'))!;
    this.deviceName = options.device === 'gpu' ? gpu! : cpu;
  }

  /** Full names of the devices TensorFlow sees. */
  deviceNames(): string[] {
    const list = this.api.TFE_ContextListDevices(this.context, this.status);
    this.check('TFE_ContextListDevices', []);
    const count = this.api.TF_DeviceListCount(list) as number;
    const names = Array.from({ length: count }, (_, i) => this.api.TF_DeviceListName(list, i, this.status) as string);
    this.api.TF_DeleteDeviceList(list);
    return names;
  }

  /** Handles alive: a leak shows here. */
  get liveHandles(): number {
    return this.handles;
  }

  get isTracing(): boolean {
    return this.graph !== undefined;
  }

  /** A new tensor holding a copy of `bytes`. */
  createTensor(bytes: Uint8Array, shape: readonly number[], dtype: number): Pointer {
    const tensor = this.api.TF_AllocateTensor(dtype, int64s(shape), shape.length, bytes.byteLength) as Pointer;
    const data = tensor && (this.api.TF_TensorData(tensor) as Pointer);
    if (bytes.byteLength > 0 && !data) {
      if (tensor) this.api.TF_DeleteTensor(tensor);
      throw tensorFlowError(8, 'TF_AllocateTensor', [`[${shape}]`], `no memory for ${bytes.byteLength} bytes`);
    }
    if (bytes.byteLength > 0) libc.copyIn(data, bytes, bytes.byteLength);
    return this.adopt(tensor);
  }

  /** A tensor over memory that outlives it (a mapped file). Zero copy where the address is a multiple of 64. */
  createTensorAt(address: Pointer, byteLength: number, shape: readonly number[], dtype: number): Pointer {
    const tensor = this.api.TF_NewTensor(dtype, int64s(shape), shape.length, address, byteLength, keepMemory(), 0);
    return this.adopt(tensor as Pointer);
  }

  private adopt(tensor: Pointer): Pointer {
    const handle = this.api.TFE_NewTensorHandle(tensor, this.status);
    this.api.TF_DeleteTensor(tensor);
    this.check('TFE_NewTensorHandle', []);
    this.handles++;
    return handle;
  }

  /** Another handle to the same memory. */
  share(handle: Pointer): Pointer {
    if (isSymbol(handle)) return handle;
    const copy = this.api.TFE_TensorHandleCopySharingTensor(handle, this.status);
    this.check('TFE_TensorHandleCopySharingTensor', []);
    this.handles++;
    return copy;
  }

  delete(handle: Pointer): void {
    if (isSymbol(handle)) return;
    this.api.TFE_DeleteTensorHandle(handle);
    this.handles--;
  }

  /** Copies a tensor's contents out. Throws inside a trace, where values do not exist yet. */
  read(handle: Pointer): Uint8Array {
    if (isSymbol(handle)) throw new TensorUseError('values cannot be read inside a compiled function');
    const tensor = this.api.TFE_TensorHandleResolve(handle, this.status);
    this.check('TFE_TensorHandleResolve', []);
    const bytes = new Uint8Array(this.api.TF_TensorByteSize(tensor));
    if (bytes.length > 0) libc.copyOut(bytes, this.api.TF_TensorData(tensor), bytes.length);
    this.api.TF_DeleteTensor(tensor);
    return bytes;
  }

  /** Appends a tensor's contents to an open file; one call to the system carries less than 2 GiB. */
  write(handle: Pointer, file: number): void {
    const bytes = this.read(handle);
    for (let done = 0; done < bytes.length;)
      done += writeSync(file, bytes, done, Math.min(bytes.length - done, 2 ** 30));
  }

  /** Type and shape of a handle or symbol. */
  describe(id: number): Value {
    if (isSymbol(id)) {
      const { dtype, shape } = this.graphInUse().symbol(id);
      return { id, dtype, shape };
    }
    const rank = this.api.TFE_TensorHandleNumDims(id, this.status) as number;
    const dim = (_: unknown, i: number) => this.api.TFE_TensorHandleDim(id, i, this.status) as number;
    const shape = Array.from({ length: Math.max(rank, 0) }, dim);
    return { id, dtype: this.api.TFE_TensorHandleDataType(id), shape };
  }

  /**
   * Runs an operation or a compiled function; inside a trace, adds it to the graph. Inputs are borrowed, outputs are the caller's.
   * @param after inside a trace: a symbol that has to exist before the operation runs, though it is no input
   */
  execute(name: string, attributes: readonly Attribute[], inputs: readonly number[], after?: number): Value[] {
    if (this.graph) {
      const previous = after !== undefined && isSymbol(after) ? [after] : [];
      return this.graph.node(name, attributes, inputs, previous).map((id) => this.describe(id));
    }
    const op = this.prepare(name, attributes, inputs);
    this.outputCount[0] = maximumOutputs;
    this.api.TFE_Execute(op, this.outputs, this.outputCount, this.status);
    this.api.TFE_DeleteOp(op);
    this.check(name, inputs);
    return this.collect(this.outputs, this.outputCount[0]);
  }

  /** As execute(), on a worker thread: the event loop stays alive. Never inside a trace. */
  async executeAsync(name: string, attributes: readonly Attribute[], inputs: readonly number[]): Promise<Value[]> {
    if (this.graph) throw new TensorUseError('asynchronous calls are not possible inside a compiled function');
    const { api } = this;
    const op = this.prepare(name, attributes, inputs);
    const outputs = new BigInt64Array(maximumOutputs);
    const count = Int32Array.of(maximumOutputs);
    const status = this.freeStatuses.pop() ?? api.TF_NewStatus();
    // Described now: the caller may have disposed of its inputs when the call ends.
    const types = inputs.map((id) => this.typeAndShape(id));
    try {
      await new Promise<void>((resolve, reject) =>
        api.TFE_Execute.async(op, outputs, count, status, (error: Error | null) => (error ? reject(error) : resolve())),
      );
    } finally {
      api.TFE_DeleteOp(op);
      this.freeStatuses.push(status);
    }
    this.checkStatus(status, name, () => types);
    return this.collect(outputs, count[0]);
  }

  private readonly freeStatuses: Pointer[] = [];

  private prepare(name: string, attributes: readonly Attribute[], inputs: readonly number[]): Pointer {
    const { api, status, context } = this;
    const op = api.TFE_NewOp(context, cstring(name), status) as Pointer;
    this.check(name, inputs);
    try {
      if (this.options.device === 'gpu') api.TFE_OpSetDevice(op, cstring(this.deviceName), status);
      setAttributes(api, 'eager', op, attributes, status);
      for (const input of inputs) {
        if (isSymbol(input)) throw new TensorUseError(`${name}: a value of a compiled function is used outside of it`);
        api.TFE_OpAddInput(op, input, status);
        this.check(name, inputs);
      }
      return op;
    } catch (error) {
      api.TFE_DeleteOp(op);
      throw error;
    }
  }

  private collect(outputs: BigInt64Array, count: number): Value[] {
    this.handles += count;
    return Array.from({ length: count }, (_, i) => this.describe(Number(outputs[i])));
  }

  /**
   * Builds a function by running `body` on symbols of the given types and shapes, and registers it under `name`.
   * @returns whether its first run compiles kernels; settle() gives back what that touched
   */
  trace(
    name: string,
    inputs: readonly { dtype: number; shape: readonly number[] }[],
    body: (ids: number[]) => number[],
  ): boolean {
    if (this.graph) throw new Error('internal: traces do not nest');
    const graph = (this.graph = this.newGraph());
    try {
      const ids = inputs.map(({ dtype, shape }) => graph.input(dtype, shape));
      const outputs = body(ids);
      const fused = fuse(graph.traced(ids, outputs), this.options.device);
      const known = this.kernels.size;
      const hasKernels = fused.nodes.some(({ kernel }) => kernel);
      const fn = hasKernels ? this.build(name, fused, inputs) : graph.toFunction(name, ids, outputs);
      this.addFunction(name, fn);
      this.api.TF_DeleteFunction(fn);
      return this.kernels.size > known;
    } finally {
      graph.dispose();
      this.graph = undefined;
    }
  }

  private newGraph(): Graph {
    return new Graph(
      this.api,
      this.status,
      (handle) => this.api.TFE_TensorHandleResolve(handle, this.status) as Pointer,
    );
  }

  private addFunction(name: string, fn: Pointer): void {
    this.api.TFE_ContextAddFunction(this.context, fn, this.status);
    this.check(name, []);
  }

  /** A function of given nodes; each kernel becomes a call of a function that XLA compiles when it first runs. */
  private build(
    name: string,
    traced: TracedFunction,
    inputs: readonly { dtype: number; shape: readonly number[] }[],
  ): Pointer {
    const graph = this.newGraph();
    try {
      const ids = inputs.map(({ dtype, shape }) => graph.input(dtype, shape));
      const outputs = graph.replay(traced, ids, (node, own, after) => {
        const { name, fn } = this.kernel(node, node.inputs.map(traced.describe));
        graph.library(fn);
        return graph.node(name, [mustCompile], own, after);
      });
      return graph.toFunction(name, ids, outputs);
    } finally {
      graph.dispose();
    }
  }

  private readonly kernels = new Map<string, { name: string; fn: Pointer }>();

  /** The function of a kernel; equal kernels are one, which XLA compiles once. */
  private kernel(
    { kernel: nodes = [], inputs, outputs }: TracedNode,
    types: readonly { dtype: number; shape: readonly number[] }[],
  ): { name: string; fn: Pointer } {
    const places = new Map(inputs.map((id, i) => [id, i]));
    for (const node of nodes) node.outputs.forEach((id) => places.set(id, places.size));
    const place = (ids: readonly number[]) => ids.map((id) => places.get(id));
    const steps = nodes.map((node) => `${actionOf(node)} ${place(node.inputs)}`);
    const key = [...types.map(({ dtype, shape }) => `${dtype}[${shape}]`), ...steps, place(outputs)].join('\n');
    const known = this.kernels.get(key);
    if (known) return known;
    const name = `kernel_${this.kernels.size}`;
    const graph = this.newGraph();
    try {
      const ids = types.map(({ dtype, shape }) => graph.input(dtype, shape));
      // What runs before a kernel runs before all of it.
      const own = nodes.map((node) => ({ ...node, after: [] }));
      const fn = graph.toFunction(name, ids, graph.replay({ nodes: own, inputs, outputs }, ids));
      this.addFunction(name, fn);
      const made = { name, fn };
      this.kernels.set(key, made);
      return made;
    } finally {
      graph.dispose();
    }
  }

  /** Gives back the memory that compiling kernels took: the compiler's code, and what malloc keeps of its data (150 MB together). */
  settle(): void {
    this.dropLibraryPages();
    libc.mallocTrim?.(0);
  }

  /** Forgets a function that trace() registered. */
  removeFunction(name: string): void {
    this.api.TFE_ContextRemoveFunction(this.context, cstring(name), this.status);
    this.check(name, []);
  }

  private graphInUse(): Graph {
    if (!this.graph) throw new TensorUseError('a value of a compiled function is used outside of it');
    return this.graph;
  }

  private check(op: string, inputs: readonly number[]): void {
    this.checkStatus(this.status, op, () => inputs.map((id) => this.typeAndShape(id)));
  }

  private checkStatus(status: Pointer, op: string, inputs: () => string[]): void {
    const code = this.api.TF_GetCode(status) as number;
    if (code === 0) return;
    const reason = this.api.TF_Message(status) as string;
    throw tensorFlowError(code, op, inputs(), reason);
  }

  private typeAndShape(id: number): string {
    if (isSymbol(id)) return 'a value of a compiled function';
    const { dtype, shape } = this.describe(id);
    return `${typeName(dtype)}[${shape}]`;
  }
}

/** What runs operations: TensorFlow, or a rehearsal that only counts what they would take. */
export type TensorRuntime = Pick<Runtime, keyof Runtime>;

/**
 * ConfigProto bytes: device_count (1), intra_op_parallelism_threads (2), allow_soft_placement (7), gpu_options.allow_growth (6.4). Device
 * 'cpu' counts no GPU, so that a CUDA build which serves it leaves the machine's GPUs alone.
 */
function configProto({ device, threads }: RuntimeOptions): Uint8Array {
  const noGpu = device === 'cpu' ? [0x0a, 7, 0x0a, 3, ...Buffer.from('GPU'), 0x10, 0] : [];
  const intra = threads > 0 ? [0x10, ...varint(threads)] : [];
  return Uint8Array.from([...noGpu, ...intra, 0x38, 1, 0x32, 2, 0x20, 1]);
}

function varint(value: number): number[] {
  return value < 128 ? [value] : [(value & 127) | 128, ...varint(value >>> 7)];
}

let noop: Pointer = 0;

/** A deallocator that frees nothing (libc's getpid ignores what it is passed): mapped memory belongs to its MappedFile. */
function keepMemory(): Pointer {
  return (noop ||= libc.dlsym(0, 'getpid') as Pointer);
}
