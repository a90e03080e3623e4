import { cast, toRaw, type DType, type Parameter, type RawTensor, type tf } from '@blockwise/tensorflow';

/** A parameter's values in float32; the caller's. */
export function valueOf(parameter: Parameter): tf.Tensor {
  const stored = parameter.acquire();
  const values = cast(stored);
  parameter.release(stored);
  return values;
}

/** Values as they are kept, rounded to nearest; consumes `values`. */
export function atRest(values: tf.Tensor, dtype: DType): RawTensor {
  const stored = toRaw(values, dtype);
  values.dispose();
  return stored;
}
