/** What TensorFlow refused: the operation, its input shapes and TensorFlow's own words. */
export class TensorFlowError extends Error {
  override name = 'TensorFlowError';
  constructor(
    /** TF_Code by name, for example INVALID_ARGUMENT. */
    readonly code: string,
    /** The operation or call that failed. */
    readonly op: string,
    /** Shapes and types of its inputs, as text. */
    readonly inputs: readonly string[],
    /** TensorFlow's message. */
    readonly reason: string,
  ) {
    super(`${op}(${inputs.join(', ')}): ${reason} [${code}]`);
  }
}

/** The machine or the device ran out of memory inside an operation. */
export class OutOfMemoryError extends TensorFlowError {
  override name = 'OutOfMemoryError';
}

/** Something was used after dispose(), or inside a compiled function where only its inputs exist. */
export class TensorUseError extends Error {
  override name = 'TensorUseError';
}

/** Names of TF_Code (tensorflow/c/tsl_status.h). */
const codes = [
  'OK',
  'CANCELLED',
  'UNKNOWN',
  'INVALID_ARGUMENT',
  'DEADLINE_EXCEEDED',
  'NOT_FOUND',
  'ALREADY_EXISTS',
  'PERMISSION_DENIED',
  'RESOURCE_EXHAUSTED',
  'FAILED_PRECONDITION',
  'ABORTED',
  'OUT_OF_RANGE',
  'UNIMPLEMENTED',
  'INTERNAL',
  'UNAVAILABLE',
  'DATA_LOSS',
  'UNAUTHENTICATED',
];

/** The typed exception of a TF_Code. */
export function tensorFlowError(code: number, op: string, inputs: readonly string[], reason: string): TensorFlowError {
  const name = codes[code] ?? `CODE_${code}`;
  const kind = name === 'RESOURCE_EXHAUSTED' ? OutOfMemoryError : TensorFlowError;
  return new kind(name, op, inputs, reason);
}
