import { cast, type Parameter, type tf } from '@blockwise/tensorflow';

/** A parameter's values in float32; the caller's. */
export function valueOf(parameter: Parameter): tf.Tensor {
  const stored = parameter.acquire();
  const values = cast(stored);
  parameter.release(stored);
  return values;
}
