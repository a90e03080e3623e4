import { int64s, setAttributes, type Attribute } from './attributes.ts';
import { dtypes, elementCount } from './dtypes.ts';
import { TensorUseError, tensorFlowError } from './errors.ts';
import type { Constant, TracedFunction, TracedNode } from './fusion/traced-function.ts';
import { cstring, libc, type GraphOutput, type Pointer, type TensorFlowFunctions } from './library.ts';

/** A value inside a graph under construction: which output of which node, its TF_DataType code and its shape. */
export interface Symbol {
  readonly output: GraphOutput;
  readonly dtype: number;
  readonly shape: number[];
}

/** Identifiers of symbols live above every address, so one number tells a symbol from a tensor handle. */
const firstSymbol = 2 ** 52;
let nextSymbol = firstSymbol;

/** Whether an identifier is that of a symbol, which has no values yet, not that of a tensor. */
export const isSymbol = (id: number) => id >= firstSymbol;

/** Inputs of these operations that form a list (`TF_AddInputList`): all of them, or all but the last. */
const listInputs: Record<string, 'all' | 'all but last'> = {
  AddN: 'all',
  ConcatV2: 'all but last',
  Einsum: 'all',
  IdentityN: 'all',
  Pack: 'all',
};

/** A larger array inside a compiled function would be copied into the graph: it has to be an input instead, or of one value. */
const largestConstantBytes = 4096;

/** TF_Output arrays as C lays them out: 8 bytes of pointer, 4 of index, 4 of padding. */
function packOutputs(outputs: readonly GraphOutput[]): Buffer {
  const bytes = Buffer.alloc(16 * outputs.length);
  outputs.forEach(({ oper, index }, i) => {
    bytes.writeBigInt64LE(BigInt(oper), 16 * i);
    bytes.writeInt32LE(index, 16 * i + 8);
  });
  return bytes;
}

/** The bytes of the element that fills a tensor throughout, or undefined. */
function repeatedElement(data: Pointer, bytes: number, elementBytes: number): Buffer | undefined {
  const contents = Buffer.alloc(bytes);
  libc.copyOut(contents, data, bytes);
  const [tail, head] = [contents.subarray(elementBytes), contents.subarray(0, bytes - elementBytes)];
  return tail.equals(head) ? contents.subarray(0, elementBytes) : undefined;
}

/** A TensorFlow graph being built node by node, to become a function that runs as one operation. */
export class Graph {
  private readonly graph: Pointer;
  private readonly symbols = new Map<number, Symbol>();
  private readonly recorded: TracedNode[] = [];
  private nodes = 0;

  constructor(
    private readonly api: TensorFlowFunctions,
    private readonly status: Pointer,
    /** Reads a real tensor handle met while tracing, so that it can become a constant of the graph. */
    private readonly resolve: (handle: Pointer) => Pointer,
  ) {
    this.graph = api.TF_NewGraph();
  }

  /** The symbol behind an identifier. Throws where the identifier is of another graph or already consumed. */
  symbol(id: number): Symbol {
    const symbol = this.symbols.get(id);
    if (!symbol) throw new TensorUseError('a value of another compiled function is used here: pass it as an input');
    return symbol;
  }

  /** Declares an input of the function; returns its identifier. */
  input(dtype: number, shape: readonly number[]): number {
    const attributes = [
      { name: 'dtype', type: 4, value: dtype },
      { name: 'shape', type: 5, value: shape },
    ];
    return this.add('Placeholder', attributes, [], []).outputs[0];
  }

  /**
   * Adds a node; inputs are identifiers of symbols, or real handles, which become constants. Returns one identifier per output.
   * @param after symbols whose nodes have to run first, though they are no inputs
   */
  node(
    type: string,
    attributes: readonly Attribute[],
    inputs: readonly number[],
    after: readonly number[] = [],
  ): readonly number[] {
    const ids = inputs.map((id) => (isSymbol(id) ? id : this.constant(this.constantOf(id))));
    const node = this.add(type, attributes, ids, after);
    this.recorded.push(node);
    return node.outputs;
  }

  private add(
    type: string,
    attributes: readonly Attribute[],
    inputs: readonly number[],
    after: readonly number[],
  ): TracedNode {
    const { api } = this;
    const given = inputs.map((id) => this.symbol(id).output);
    const description = api.TF_NewOperation(this.graph, cstring(type), `n${this.nodes++}`);
    const lists = listInputs[type];
    if (lists) {
      const count = lists === 'all' ? given.length : given.length - 1;
      api.TF_AddInputList(description, packOutputs(given.slice(0, count)), count);
      given.slice(count).forEach((value) => api.TF_AddInput(description, value));
    } else {
      given.forEach((value) => api.TF_AddInput(description, value));
    }
    for (const id of after) api.TF_AddControlInput(description, this.symbol(id).output.oper);
    setAttributes(api, 'graph', description, attributes, this.status);
    const outputs = this.finish(description, type, inputs);
    return { type, attributes, inputs, outputs, after };
  }

  private finish(description: Pointer, type: string, inputs: readonly number[]): number[] {
    const oper = this.api.TF_FinishOperation(description, this.status) as Pointer;
    this.check(type, inputs);
    return Array.from({ length: this.api.TF_OperationNumOutputs(oper) }, (_, index) => this.register({ oper, index }));
  }

  private register(output: GraphOutput): number {
    const { api, graph, status } = this;
    const rank = api.TF_GraphGetTensorNumDims(graph, output, status) as number;
    const dims = new BigInt64Array(Math.max(rank, 0));
    if (rank > 0) api.TF_GraphGetTensorShape(graph, output, dims, rank, status);
    const id = nextSymbol++;
    this.symbols.set(id, { output, dtype: api.TF_OperationOutputType(output), shape: Array.from(dims, Number) });
    return id;
  }

  /** The contents of a small tensor from outside, or of one that a single element fills. */
  private constantOf(handle: Pointer): Constant {
    const { api } = this;
    const tensor = this.resolve(handle);
    try {
      const bytes = api.TF_TensorByteSize(tensor) as number;
      const data = api.TF_TensorData(tensor) as Pointer;
      const [dtype, shape] = [api.TFE_TensorHandleDataType(handle) as number, this.shapeOf(handle)];
      if (bytes <= largestConstantBytes) {
        const contents = new Uint8Array(bytes);
        if (bytes > 0) libc.copyOut(contents, data, bytes);
        return { dtype, shape, bytes: contents, isRepeated: false };
      }
      const element = repeatedElement(data, bytes, bytes / elementCount(shape));
      if (element) return { dtype, shape, bytes: element, isRepeated: true };
      throw new TensorUseError(
        `a tensor of ${bytes} bytes from outside is used inside a compiled function: pass it as an input (only constants up to ${largestConstantBytes} bytes, or of one value throughout, are captured)`,
      );
    } finally {
      api.TF_DeleteTensor(tensor);
    }
  }

  /** Adds a constant: its values, or, of one that an element fills, Fill(shape, element) (what tf.ones() made from JavaScript). */
  private constant(constant: Constant): number {
    const { dtype, shape, bytes, isRepeated } = constant;
    let id: number;
    if (isRepeated) {
      const dims = new Uint8Array(int64s(shape).buffer);
      const types = [dtype, dtypes.int64.code];
      const attributes = ['T', 'index_type'].map((name, i) => ({ name, type: 4, value: types[i] }));
      const inputs = [this.values(dims, [shape.length], dtypes.int64.code), this.values(bytes, [], dtype)];
      [id] = this.add('Fill', attributes, inputs, []).outputs;
    } else {
      id = this.values(bytes, shape, dtype);
    }
    this.recorded.push({ type: 'Const', attributes: [], inputs: [], outputs: [id], after: [], constant });
    return id;
  }

  private values(bytes: Uint8Array, shape: readonly number[], dtype: number): number {
    const { api, status } = this;
    const tensor = api.TF_AllocateTensor(dtype, int64s(shape), shape.length, bytes.length) as Pointer;
    if (bytes.length > 0) libc.copyIn(api.TF_TensorData(tensor), bytes, bytes.length);
    const description = api.TF_NewOperation(this.graph, cstring('Const'), `n${this.nodes++}`);
    api.TF_SetAttrTensor(description, cstring('value'), tensor, status);
    api.TF_SetAttrType(description, cstring('dtype'), dtype);
    api.TF_DeleteTensor(tensor);
    return this.finish(description, 'Const', [])[0];
  }

  /** What was traced so far, as a function of some inputs. */
  traced(inputs: readonly number[], outputs: readonly number[]): TracedFunction {
    return { inputs, outputs, nodes: this.recorded, describe: (id) => this.symbol(id) };
  }

  /**
   * Adds the nodes of a traced function; its inputs are given. Returns its outputs.
   * @param kernel adds a kernel's node
   */
  replay(
    { nodes, inputs, outputs }: Omit<TracedFunction, 'describe'>,
    given: readonly number[],
    kernel?: (node: TracedNode, inputs: readonly number[], after: readonly number[]) => readonly number[],
  ): number[] {
    const now = new Map(inputs.map((id, i) => [id, given[i]]));
    const mapped = (ids: readonly number[]) => ids.map((id) => now.get(id)!);
    for (const node of nodes) {
      const [own, after] = [mapped(node.inputs), mapped(node.after)];
      const made = node.constant
        ? [this.constant(node.constant)]
        : node.kernel
          ? kernel!(node, own, after)
          : this.node(node.type, node.attributes, own, after);
      node.outputs.forEach((id, i) => now.set(id, made[i]));
    }
    return mapped(outputs);
  }

  /** Lets nodes call a function, by the name that it was made with. */
  library(fn: Pointer): void {
    this.api.TF_GraphCopyFunction(this.graph, fn, 0, this.status);
    this.check('TF_GraphCopyFunction', []);
  }

  private shapeOf(handle: Pointer): number[] {
    const { api, status } = this;
    const rank = api.TFE_TensorHandleNumDims(handle, status) as number;
    return Array.from({ length: rank }, (_, i) => api.TFE_TensorHandleDim(handle, i, status) as number);
  }

  private check(type: string, inputs: readonly number[]): void {
    const code = this.api.TF_GetCode(this.status);
    if (code === 0) return;
    const shapes = inputs.map((id) => (isSymbol(id) ? `[${this.symbol(id).shape}]` : 'constant'));
    throw tensorFlowError(code, type, shapes, this.api.TF_Message(this.status));
  }

  /** Closes the graph into a TF_Function called `name`; the caller adds it to a context and deletes it. */
  toFunction(name: string, inputs: readonly number[], outputs: readonly number[]): Pointer {
    const pack = (ids: readonly number[]) => packOutputs(ids.map((id) => this.symbol(id).output));
    const result = this.api.TF_GraphToFunction(
      this.graph, cstring(name), 0, -1, 0, inputs.length, pack(inputs), outputs.length, pack(outputs), 0, 0, 0, this.status,
    ); // prettier-ignore
    this.check(`function ${name}`, []);
    return result;
  }

  dispose(): void {
    this.symbols.clear();
    this.api.TF_DeleteGraph(this.graph);
  }
}
