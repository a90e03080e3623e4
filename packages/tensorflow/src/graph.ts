import { int64s, setAttributes, type Attribute } from './attributes.ts';
import { dtypes, elementCount } from './dtypes.ts';
import { TensorUseError, tensorFlowError } from './errors.ts';
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
    return this.node(
      'Placeholder',
      [
        { name: 'dtype', type: 4, value: dtype },
        { name: 'shape', type: 5, value: shape },
      ],
      [],
    )[0];
  }

  /**
   * Adds a node; inputs are identifiers of symbols, or real handles, which become constants. Returns one identifier per output.
   * @param after a symbol whose node has to run first, though it is no input
   */
  node(type: string, attributes: readonly Attribute[], inputs: readonly number[], after?: number): number[] {
    const { api } = this;
    const outputs = inputs.map((id) => (isSymbol(id) ? this.symbol(id).output : this.constant(id)));
    const description = api.TF_NewOperation(this.graph, cstring(type), `n${this.nodes++}`);
    const lists = listInputs[type];
    if (lists) {
      const count = lists === 'all' ? outputs.length : outputs.length - 1;
      api.TF_AddInputList(description, packOutputs(outputs.slice(0, count)), count);
      outputs.slice(count).forEach((value) => api.TF_AddInput(description, value));
    } else {
      outputs.forEach((value) => api.TF_AddInput(description, value));
    }
    if (after !== undefined) api.TF_AddControlInput(description, this.symbol(after).output.oper);
    setAttributes(api, 'graph', description, attributes, this.status);
    const oper = api.TF_FinishOperation(description, this.status) as Pointer;
    this.check(type, inputs);
    return Array.from({ length: api.TF_OperationNumOutputs(oper) }, (_, index) => this.register({ oper, index }));
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

  private constant(handle: Pointer): GraphOutput {
    const { api } = this;
    const tensor = this.resolve(handle);
    try {
      const bytes = api.TF_TensorByteSize(tensor) as number;
      if (bytes > largestConstantBytes) {
        const element = repeatedElement(api.TF_TensorData(tensor), bytes, bytes / elementCount(this.shapeOf(handle)));
        if (element) return this.filled(element, handle);
        throw new TensorUseError(
          `a tensor of ${bytes} bytes from outside is used inside a compiled function: pass it as an input (only constants up to ${largestConstantBytes} bytes, or of one value throughout, are captured)`,
        );
      }
      return this.constantOf(tensor, this.dtypeOf(handle));
    } finally {
      api.TF_DeleteTensor(tensor);
    }
  }

  private constantOf(tensor: Pointer, dtype: number): GraphOutput {
    const { api, status } = this;
    const description = api.TF_NewOperation(this.graph, cstring('Const'), `n${this.nodes++}`);
    api.TF_SetAttrTensor(description, cstring('value'), tensor, status);
    api.TF_SetAttrType(description, cstring('dtype'), dtype);
    const oper = api.TF_FinishOperation(description, status) as Pointer;
    this.check('Const', []);
    return { oper, index: 0 };
  }

  /** Fill(dims, element): what tf.ones() and tf.zeros() made from JavaScript, as gradients of TensorFlow.js do. */
  private filled(element: Buffer, handle: Pointer): GraphOutput {
    const { api, status } = this;
    const dtype = this.dtypeOf(handle);
    const dims = int64s(this.shapeOf(handle));
    const constants = [
      { values: new Uint8Array(dims.buffer), shape: int64s([dims.length]), type: dtypes.int64.code },
      { values: element, shape: int64s([]), type: dtype },
    ].map(({ values, shape, type }) => {
      const tensor = api.TF_AllocateTensor(type, shape, shape.length, values.length) as Pointer;
      libc.copyIn(api.TF_TensorData(tensor), values, values.length);
      const output = this.constantOf(tensor, type);
      api.TF_DeleteTensor(tensor);
      return output;
    });
    const description = api.TF_NewOperation(this.graph, cstring('Fill'), `n${this.nodes++}`);
    constants.forEach((constant) => api.TF_AddInput(description, constant));
    api.TF_SetAttrType(description, cstring('T'), dtype);
    api.TF_SetAttrType(description, cstring('index_type'), dtypes.int64.code);
    const oper = api.TF_FinishOperation(description, status) as Pointer;
    this.check('Fill', []);
    return { oper, index: 0 };
  }

  private dtypeOf(handle: Pointer): number {
    return this.api.TFE_TensorHandleDataType(handle);
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
