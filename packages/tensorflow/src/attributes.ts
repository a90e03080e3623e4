import { cstring, type Pointer, type TensorFlowFunctions } from './library.ts';

/** TF_AttrType of tensorflow/c/tf_attrtype.h: the kinds of attribute an operation takes. */
export const attributeKinds = { string: 0, int: 1, float: 2, bool: 3, type: 4, shape: 5 } as const;

/** One attribute of an operation, as the TensorFlow.js kernels write it. */
export interface Attribute {
  name: string;
  type: number;
  value: unknown;
}

/** Shorthands for the attributes that our own operations set. */
export const attribute = {
  type: (name: string, code: number): Attribute => ({ name, type: attributeKinds.type, value: code }),
  bool: (name: string, value: boolean): Attribute => ({ name, type: attributeKinds.bool, value }),
  int: (name: string, value: number): Attribute => ({ name, type: attributeKinds.int, value }),
  float: (name: string, value: number): Attribute => ({ name, type: attributeKinds.float, value }),
  string: (name: string, value: string): Attribute => ({ name, type: attributeKinds.string, value }),
  shape: (name: string, value: readonly number[]): Attribute => ({ name, type: attributeKinds.shape, value }),
};

/** Sizes as C takes them, int64_t[]. */
export const int64s = (values: readonly number[]) => BigInt64Array.from(values, BigInt);

/** Sets attributes on an eager operation (TFE_Op) or on a graph node (TF_OperationDescription). */
export function setAttributes(
  api: TensorFlowFunctions,
  place: 'eager' | 'graph',
  op: Pointer,
  attributes: readonly Attribute[],
  status: Pointer,
): void {
  const eager = place === 'eager';
  for (const { name, type, value } of attributes) {
    const key = cstring(name);
    const list = Array.isArray(value);
    if (type === attributeKinds.shape) {
      const dims = int64s(value as number[]);
      if (eager) api.TFE_OpSetAttrShape(op, key, dims, dims.length, status);
      else api.TF_SetAttrShape(op, key, dims, dims.length);
    } else if (type === attributeKinds.type && list) {
      (eager ? api.TFE_OpSetAttrTypeList : api.TF_SetAttrTypeList)(op, key, Int32Array.from(value), value.length);
    } else if (type === attributeKinds.type) {
      (eager ? api.TFE_OpSetAttrType : api.TF_SetAttrType)(op, key, value);
    } else if (type === attributeKinds.bool) {
      (eager ? api.TFE_OpSetAttrBool : api.TF_SetAttrBool)(op, key, value ? 1 : 0);
    } else if (type === attributeKinds.int && list) {
      (eager ? api.TFE_OpSetAttrIntList : api.TF_SetAttrIntList)(op, key, int64s(value), value.length);
    } else if (type === attributeKinds.int) {
      (eager ? api.TFE_OpSetAttrInt : api.TF_SetAttrInt)(op, key, value);
    } else if (type === attributeKinds.float) {
      (eager ? api.TFE_OpSetAttrFloat : api.TF_SetAttrFloat)(op, key, value);
    } else if (type === attributeKinds.string) {
      const bytes = Buffer.from(String(value));
      (eager ? api.TFE_OpSetAttrString : api.TF_SetAttrString)(op, key, bytes, bytes.length);
    } else {
      throw new Error(`internal: attribute ${name} of kind ${type} is not supported`);
    }
  }
}
