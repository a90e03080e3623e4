/** TensorFlow's element types by name, with their TF_DataType code, bytes per element and the JavaScript array that holds them. */

type ArrayConstructor =
  | Float32ArrayConstructor
  | Float64ArrayConstructor
  | Int8ArrayConstructor
  | Uint8ArrayConstructor
  | Uint16ArrayConstructor
  | Int32ArrayConstructor
  | BigInt64ArrayConstructor;

/** An element type: its code in C, its size, and the JavaScript array that holds it (of 16-bit floats their bits). */
export interface DTypeInfo {
  /** TF_DataType of tensorflow/c/tf_datatype.h. */
  readonly code: number;
  readonly bytes: number;
  readonly array: ArrayConstructor;
}

/** Every element type that this package carries. */
export const dtypes = {
  float32: { code: 1, bytes: 4, array: Float32Array },
  float64: { code: 2, bytes: 8, array: Float64Array },
  int32: { code: 3, bytes: 4, array: Int32Array },
  uint8: { code: 4, bytes: 1, array: Uint8Array },
  int8: { code: 6, bytes: 1, array: Int8Array },
  int64: { code: 9, bytes: 8, array: BigInt64Array },
  bool: { code: 10, bytes: 1, array: Uint8Array },
  bfloat16: { code: 14, bytes: 2, array: Uint16Array },
  uint16: { code: 17, bytes: 2, array: Uint16Array },
  float16: { code: 19, bytes: 2, array: Uint16Array },
} as const satisfies Record<string, DTypeInfo>;

/** An element type a tensor can be stored in. */
export type DType = keyof typeof dtypes;

export const TF_STRING = 7;
export const TF_RESOURCE = 20;

const byCode = new Map<number, DType>(Object.entries(dtypes).map(([name, info]) => [info.code, name as DType]));

/** The name of a TF_DataType code; throws on a type this package does not carry. */
export function dtypeOfCode(code: number): DType {
  const name = byCode.get(code);
  if (!name) throw new Error(`internal: no dtype for TF_DataType ${code}`);
  return name;
}

/** A TF_DataType code in words, for messages: also of types this package does not carry. */
export function typeName(code: number): string {
  return (
    byCode.get(code) ?? (code === TF_RESOURCE ? 'resource' : code === TF_STRING ? 'string' : `TF_DataType ${code} `)
  );
}

/** Elements of a shape (1 for a scalar). */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}
