import * as tf from '@tensorflow/tfjs-core';
import util from 'node:util';
import { attribute, attributeKinds, type Attribute } from './attributes.ts';
import { dtypes, TF_RESOURCE, TF_STRING, type DType } from './dtypes.ts';
import { TensorUseError } from './errors.ts';
import { executeOperation } from './execute-operation.ts';
import { currentRuntime, notLoaded } from './current-runtime.ts';
import type { Value } from './runtime.ts';

/**
 * Puts our runtime underneath the JavaScript kernels of @tensorflow/tfjs-node-gpu. Those kernels describe each TensorFlow.js operation as
 * TensorFlow operations and call a small binding object; their own binding is a compiled addon, ours is the runtime.
 */
interface KernelBackend extends tf.KernelBackend {
  createOutputTensor(value: Value): tf.Tensor;
  getInputTensorIds(tensors: readonly tf.Tensor[]): number[];
}

let backend: KernelBackend | undefined;

/** TensorFlow.js's backend until initTensorFlow() has run: it takes no values and says why. */
class NotLoaded extends tf.KernelBackend {
  override write(): never {
    throw new Error(notLoaded);
  }
  override memory(): never {
    throw new Error(notLoaded);
  }
}

// The sentence is its name too: what needs no values, such as tf.fill(), fails by "Kernel ... not registered for backend" and the name.
tf.registerBackend(notLoaded, () => new NotLoaded(), 0);

/** Registers the TensorFlow.js backend `tensorflow` and makes it the current one. */
export async function registerBackend(): Promise<void> {
  // Gone in Node 23, still called by the kernels of 2024.
  const legacy = util as unknown as Record<string, unknown>;
  legacy.isNullOrUndefined ??= (x: unknown) => x === null || x === undefined;
  legacy.isArray ??= Array.isArray;
  // Only here, because it takes 0.2 s to load.
  const { createKernelBackend } = await import('./tfjs-kernels.ts');
  backend = createKernelBackend(binding()) as KernelBackend;
  refuseDisposed(backend);
  tf.registerBackend('tensorflow', () => backend!, 3);
  registerGather();
  await tf.setBackend('tensorflow');
}

/** TensorFlow.js lets a disposed tensor into an operation, which then fails on its missing data in words that say nothing. */
function refuseDisposed(backend: KernelBackend): void {
  const ids = backend.getInputTensorIds.bind(backend);
  backend.getInputTensorIds = (tensors) => {
    for (const { isDisposed, dtype, shape } of tensors)
      if (isDisposed) throw new TensorUseError(`a ${dtype}[${shape}] tensor is used after dispose()`);
    return ids(tensors);
  };
}

/** The interface that NodeJSKernelBackend expects of the addon. */
function binding() {
  return {
    TF_FLOAT: dtypes.float32.code,
    TF_INT32: dtypes.int32.code,
    TF_UINT8: dtypes.uint8.code,
    TF_STRING,
    TF_COMPLEX64: 8,
    TF_INT64: dtypes.int64.code,
    TF_BOOL: dtypes.bool.code,
    TF_RESOURCE,
    TF_ATTR_STRING: attributeKinds.string,
    TF_ATTR_INT: attributeKinds.int,
    TF_ATTR_FLOAT: attributeKinds.float,
    TF_ATTR_BOOL: attributeKinds.bool,
    TF_ATTR_TYPE: attributeKinds.type,
    TF_ATTR_SHAPE: attributeKinds.shape,
    TF_ATTR_RESOURCE: 9,
    createTensor: (shape: number[], dtype: number, values: ArrayLike<number>) =>
      currentRuntime().createTensor(toBytes(values, dtype), shape, dtype),
    deleteTensor: (id: number) => currentRuntime().delete(id),
    tensorDataSync: (id: number) => {
      const { dtype } = currentRuntime().describe(id);
      return fromBytes(currentRuntime().read(id), dtype);
    },
    executeOp: (name: string, attributes: Attribute[], inputs: number[], _outputs: number) =>
      executeOperation(name, attributes, inputs),
    isUsingGpuDevice: () => currentRuntime().options.device === 'gpu',
    getNumOfTensors: () => currentRuntime().liveHandles,
    getNumOfSavedModels: () => 0,
  };
}

const arrays = new Map(Object.values(dtypes).map((info) => [info.code as number, info]));

function toBytes(values: ArrayLike<number>, dtype: number): Uint8Array {
  const info = arrays.get(dtype);
  if (!info) throw new Error(`tensors of TF_DataType ${dtype} cannot be made from JavaScript values`);
  // Int64Scalar arrives as pairs of int32.
  const typed = ArrayBuffer.isView(values) ? values : (info.array as Float32ArrayConstructor).from(values);
  return new Uint8Array(typed.buffer, typed.byteOffset, typed.byteLength);
}

function fromBytes(bytes: Uint8Array, dtype: number) {
  const info = arrays.get(dtype);
  if (!info) throw new Error(`tensors of TF_DataType ${dtype} cannot be read as JavaScript values`);
  return new info.array(bytes.buffer as ArrayBuffer);
}

/** The package's own GatherV2 kernel reads its indices to check them, which a trace cannot; TensorFlow checks them itself. */
function registerGather(): void {
  tf.unregisterKernel(tf.GatherV2, 'tensorflow');
  tf.registerKernel({
    kernelName: tf.GatherV2,
    backendName: 'tensorflow',
    kernelFunc: ({ inputs, attrs }) => {
      const { x, indices } = inputs as { x: tf.Tensor; indices: tf.Tensor };
      const { axis, batchDims } = attrs as unknown as tf.GatherV2Attrs;
      const axisTensor = tf.scalar(axis, 'int32');
      const [result] = currentRuntime().execute(
        'GatherV2',
        [
          attribute.int('batch_dims', batchDims),
          attribute.type('Tparams', codeOf(x.dtype)),
          attribute.type('Tindices', codeOf(indices.dtype)),
          attribute.type('Taxis', dtypes.int32.code),
        ],
        [x, indices, axisTensor].map(idOf),
      );
      axisTensor.dispose();
      return wrap(result);
    },
  });
}

const codeOf = (dtype: string): number => dtypes[dtype as DType].code;

/** A TensorFlow.js tensor over an operation's result; the tensor owns the handle from here on. */
export function wrap(value: Value): tf.Tensor {
  return backend!.createOutputTensor(value);
}

/** The handle (or symbol) behind a TensorFlow.js tensor; borrowed. */
export function idOf(tensor: tf.Tensor): number {
  return backend!.getInputTensorIds([tensor])[0];
}
