import { UserError } from '@blockwise/errors';
import koffi from 'koffi';
import { resolve } from 'node:path';
import process from 'node:process';

/**
 * The C functions of libtensorflow and libc that the engine calls. This file knows how to call them and nothing about tensors.
 *
 * Every pointer that is only passed on (handles, statuses, graphs) is declared int64, so it travels as a plain JavaScript number:
 * user-space addresses are below 2^47. `void *` marks places that take a typed array. C strings are permanent buffers (`cstring`).
 */
export type Pointer = number;

/** A C function, to be given what its declaration says. */
export interface NativeFunction<Result> {
  (...values: unknown[]): Result;
  /** The same in a thread of its own; the last value is a callback (error, result). */
  async(...values: unknown[]): void;
}

/** What a function of this declaration returns. */
type ResultOf<Declaration extends string> = Declaration extends `const char *${string}`
  ? string
  : Declaration extends `void ${string}`
    ? void
    : number;

const RTLD_NOW = 2;
const RTLD_GLOBAL = process.platform === 'darwin' ? 0x8 : 0x100;
const RTLD_NODELETE = process.platform === 'darwin' ? 0x80 : 0x1000;

const strings = new Map<string, Buffer>();

/** A NUL-terminated UTF-8 copy of `text` that is never freed: for names that recur (ops, attributes, devices). */
export function cstring(text: string): Buffer {
  let bytes = strings.get(text);
  if (!bytes) strings.set(text, (bytes = Buffer.from(text + '\0', 'utf8')));
  return bytes;
}

koffi.struct('TF_Output', { oper: 'int64', index: 'int' });

/** TF_Output of the graph API: one output of an operation. */
export interface GraphOutput {
  oper: Pointer;
  index: number;
}

/** Binds libc: mapping files, copying memory and keeping shared objects loaded. */
function bindLibc() {
  const lib = koffi.load(process.platform === 'darwin' ? 'libSystem.B.dylib' : 'libc.so.6');
  const fn = <D extends string>(declaration: D): NativeFunction<ResultOf<D>> => lib.func(declaration);
  return {
    dlopen: fn('int64 dlopen(const char *path, int flags)'),
    dlerror: fn('const char *dlerror()'),
    dlsym: fn('int64 dlsym(int64 library, const char *name)'),
    /** Copies out of native memory into a typed array. */
    copyOut: fn('int64 memcpy(void *to, int64 from, size_t bytes)'),
    /** Copies a typed array into native memory. */
    copyIn: fn('int64 memcpy(int64 to, void *from, size_t bytes)'),
    mmap: fn('int64 mmap(int64 address, size_t bytes, int protection, int flags, int file, int64 offset)'),
    munmap: fn('int munmap(int64 address, size_t bytes)'),
    madvise: fn('int madvise(int64 address, size_t bytes, int advice)'),
    dup: fn('int dup(int file)'),
    dup2: fn('int dup2(int from, int to)'),
    mallocTrim: process.platform === 'linux' ? fn('int malloc_trim(size_t pad)') : undefined,
  };
}

// A kernel started from a koffi worker thread needs more than koffi's 128 KiB of stack; set before the first library is loaded.
koffi.config({ ...koffi.config(), async_stack_size: 4 << 20 });

export const libc = bindLibc();

const whatToDo =
  '\n  What to do: unset BLOCKWISE_TENSORFLOW, so that the right library is fetched, or set it to a folder that holds it.';

function bindTensorFlow(frameworkPath: string, ccPath: string) {
  // Node may crash at exit when a library with live threads is unloaded, hence NODELETE; symbols of the first serve the second.
  for (const path of [frameworkPath, ccPath]) {
    if (!libc.dlopen(resolve(path), RTLD_NOW | RTLD_GLOBAL | RTLD_NODELETE))
      throw new UserError(`${path}: cannot be loaded as a library (${libc.dlerror()}).${whatToDo}`);
  }
  const framework = koffi.load(frameworkPath);
  const cc = koffi.load(ccPath);
  const fn = <D extends string>(declaration: D): NativeFunction<ResultOf<D>> => {
    const name = /(\w+)\(/.exec(declaration)![1];
    // The wheel splits the C API over its two libraries.
    for (const lib of [framework, cc]) {
      try {
        return lib.func(declaration);
      } catch {
        continue;
      }
    }
    throw new UserError(`${ccPath} has no function ${name}: it is of another TensorFlow version.${whatToDo}`);
  };
  return {
    TF_Version: fn('const char *TF_Version()'),
    TF_NewStatus: fn('int64 TF_NewStatus()'),
    TF_GetCode: fn('int TF_GetCode(int64 status)'),
    TF_Message: fn('const char *TF_Message(int64 status)'),
    TF_AllocateTensor: fn('int64 TF_AllocateTensor(int dtype, void *dims, int rank, size_t bytes)'),
    TF_NewTensor: fn(
      'int64 TF_NewTensor(int dtype, void *dims, int rank, int64 data, size_t bytes, int64 deallocator, int64 argument)',
    ),
    TF_DeleteTensor: fn('void TF_DeleteTensor(int64 tensor)'),
    TF_TensorData: fn('int64 TF_TensorData(int64 tensor)'),
    TF_TensorByteSize: fn('size_t TF_TensorByteSize(int64 tensor)'),
    TFE_NewContextOptions: fn('int64 TFE_NewContextOptions()'),
    TFE_ContextOptionsSetConfig: fn(
      'void TFE_ContextOptionsSetConfig(int64 options, void *proto, size_t bytes, int64 status)',
    ),
    TFE_DeleteContextOptions: fn('void TFE_DeleteContextOptions(int64 options)'),
    TFE_NewContext: fn('int64 TFE_NewContext(int64 options, int64 status)'),
    TFE_ContextListDevices: fn('int64 TFE_ContextListDevices(int64 context, int64 status)'),
    TF_DeviceListCount: fn('int TF_DeviceListCount(int64 list)'),
    TF_DeviceListName: fn('const char *TF_DeviceListName(int64 list, int index, int64 status)'),
    TF_DeleteDeviceList: fn('void TF_DeleteDeviceList(int64 list)'),
    TFE_NewTensorHandle: fn('int64 TFE_NewTensorHandle(int64 tensor, int64 status)'),
    TFE_DeleteTensorHandle: fn('void TFE_DeleteTensorHandle(int64 handle)'),
    TFE_TensorHandleDataType: fn('int TFE_TensorHandleDataType(int64 handle)'),
    TFE_TensorHandleNumDims: fn('int TFE_TensorHandleNumDims(int64 handle, int64 status)'),
    TFE_TensorHandleDim: fn('int64 TFE_TensorHandleDim(int64 handle, int index, int64 status)'),
    TFE_TensorHandleResolve: fn('int64 TFE_TensorHandleResolve(int64 handle, int64 status)'),
    TFE_TensorHandleCopySharingTensor: fn('int64 TFE_TensorHandleCopySharingTensor(int64 handle, int64 status)'),
    TFE_TensorHandleCopyToDevice: fn(
      'int64 TFE_TensorHandleCopyToDevice(int64 handle, int64 context, void *device, int64 status)',
    ),
    TFE_NewOp: fn('int64 TFE_NewOp(int64 context, void *name, int64 status)'),
    TFE_DeleteOp: fn('void TFE_DeleteOp(int64 op)'),
    TFE_OpSetDevice: fn('void TFE_OpSetDevice(int64 op, void *device, int64 status)'),
    TFE_OpAddInput: fn('void TFE_OpAddInput(int64 op, int64 input, int64 status)'),
    TFE_OpSetAttrString: fn('void TFE_OpSetAttrString(int64 op, void *name, void *value, size_t length)'),
    TFE_OpSetAttrInt: fn('void TFE_OpSetAttrInt(int64 op, void *name, int64 value)'),
    TFE_OpSetAttrIntList: fn('void TFE_OpSetAttrIntList(int64 op, void *name, void *values, int count)'),
    TFE_OpSetAttrFloat: fn('void TFE_OpSetAttrFloat(int64 op, void *name, float value)'),
    TFE_OpSetAttrBool: fn('void TFE_OpSetAttrBool(int64 op, void *name, uint8 value)'),
    TFE_OpSetAttrType: fn('void TFE_OpSetAttrType(int64 op, void *name, int value)'),
    TFE_OpSetAttrTypeList: fn('void TFE_OpSetAttrTypeList(int64 op, void *name, void *values, int count)'),
    TFE_OpSetAttrShape: fn('void TFE_OpSetAttrShape(int64 op, void *name, void *dims, int rank, int64 status)'),
    TFE_Execute: fn('void TFE_Execute(int64 op, void *outputs, void *count, int64 status)'),
    TFE_ContextAddFunction: fn('void TFE_ContextAddFunction(int64 context, int64 fn, int64 status)'),
    TFE_ContextRemoveFunction: fn('void TFE_ContextRemoveFunction(int64 context, void *name, int64 status)'),
    TF_NewGraph: fn('int64 TF_NewGraph()'),
    TF_DeleteGraph: fn('void TF_DeleteGraph(int64 graph)'),
    TF_NewOperation: fn('int64 TF_NewOperation(int64 graph, void *type, const char *name)'),
    TF_AddInput: fn('void TF_AddInput(int64 description, TF_Output input)'),
    TF_AddControlInput: fn('void TF_AddControlInput(int64 description, int64 operation)'),
    TF_AddInputList: fn('void TF_AddInputList(int64 description, void *inputs, int count)'),
    TF_SetAttrString: fn('void TF_SetAttrString(int64 description, void *name, void *value, size_t length)'),
    TF_SetAttrInt: fn('void TF_SetAttrInt(int64 description, void *name, int64 value)'),
    TF_SetAttrIntList: fn('void TF_SetAttrIntList(int64 description, void *name, void *values, int count)'),
    TF_SetAttrFloat: fn('void TF_SetAttrFloat(int64 description, void *name, float value)'),
    TF_SetAttrBool: fn('void TF_SetAttrBool(int64 description, void *name, uint8 value)'),
    TF_SetAttrType: fn('void TF_SetAttrType(int64 description, void *name, int value)'),
    TF_SetAttrTypeList: fn('void TF_SetAttrTypeList(int64 description, void *name, void *values, int count)'),
    TF_SetAttrShape: fn('void TF_SetAttrShape(int64 description, void *name, void *dims, int rank)'),
    TF_SetAttrTensor: fn('void TF_SetAttrTensor(int64 description, void *name, int64 tensor, int64 status)'),
    TF_FinishOperation: fn('int64 TF_FinishOperation(int64 description, int64 status)'),
    TF_OperationNumOutputs: fn('int TF_OperationNumOutputs(int64 operation)'),
    TF_OperationOutputType: fn('int TF_OperationOutputType(TF_Output output)'),
    TF_GraphGetTensorNumDims: fn('int TF_GraphGetTensorNumDims(int64 graph, TF_Output output, int64 status)'),
    TF_GraphGetTensorShape: fn(
      'void TF_GraphGetTensorShape(int64 graph, TF_Output output, void *dims, int rank, int64 status)',
    ),
    TF_GraphToFunction: fn(
      'int64 TF_GraphToFunction(int64 graph, void *name, uint8 appendHash, int operations, int64 all, int inputCount, void *inputs, int outputCount, void *outputs, int64 outputNames, int64 options, int64 description, int64 status)',
    ),
    TF_GraphCopyFunction: fn('void TF_GraphCopyFunction(int64 graph, int64 fn, int64 gradient, int64 status)'),
    TF_DeleteFunction: fn('void TF_DeleteFunction(int64 fn)'),
  };
}

export type TensorFlowFunctions = ReturnType<typeof bindTensorFlow>;

/** Loads the two shared objects and binds the functions above; call once per process. */
export function loadLibrary(frameworkPath: string, ccPath: string): TensorFlowFunctions {
  return bindTensorFlow(frameworkPath, ccPath);
}
