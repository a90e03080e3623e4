import { UserError } from '@blockwise/errors';
import {
  frozenLinear,
  linearShapes,
  storedWeight,
  type FrozenWeight,
  type LinearLayer,
  type Stage,
  type StagedModel,
  type StageWeights,
} from '@blockwise/model-zoo';
import { dequantizeNf4Codes, nf4Absmax, nf4BlockSize, nf4Table, quantizeNf4 } from '@blockwise/quantization';
import { sliceRows, tf, type RawTensor } from '@blockwise/tensorflow';
import { adapterProblems, isPacked } from './lora-targets.ts';
import { packLayers } from './pack-layers.ts';

/**
 * Puts the linear modules of a model's layers into 4 bits, as bitsandbytes' load_in_4bit does: NF4 in blocks of 64 (QLoRA, arXiv 2305.14314,
 * section 3); embedding, head and norms stay as they are. Consumes `base`, whose weights are quantised and freed one at a time; the result is
 * made to be adapted by applyLora(), not to be trained itself. Beside `<module>.weight` (uint8 [outputs, inputs / 2], two codes a byte) there
 * are `<module>.weight.absmax` and, with double quantisation, `.nested_absmax` and `.nested_offset`.
 * @param options.doubleQuantization the blocks' maxima take 8 bits instead of 32: 4.13 bits a weight instead of 4.5; default true
 * @throws UserError naming the weights that cannot be packed, with `base` as it was; and one that is not finite, with which `base` is gone
 */
export function quantizeModelNf4<Model extends StagedModel>(
  base: Model,
  { doubleQuantization = true }: { doubleQuantization?: boolean } = {},
): Model {
  const { stages } = base;
  const problems = [...adapterProblems(base), ...stages.slice(1, -1).flatMap(packingProblems)];
  if (problems.length > 0) throw UserError.of('this model cannot be put into 4 bits', problems);
  return packLayers(base, {
    kind: 'nf4',
    partsOf: (weight, module) => packedParts(weight, `${module}.weight`, doubleQuantization),
    linearOf: nf4Linear,
  });
}

function packingProblems(stage: Stage): string[] {
  return [...linearShapes(stage)].flatMap(([local, [, inputs]]) => {
    const weight = stage.parameters.get(`${local}.weight`)!;
    if (isPacked(weight)) return [`${weight.name} is quantised already`];
    return inputs % 2 > 0 ? [`${weight.name} has ${inputs} columns, an odd number, and two values share a byte`] : [];
  });
}

/** A weight quantised. */
function packedParts(weight: RawTensor, name: string, doubleQuant: boolean) {
  const { codes, absmax, nestedAbsmax, nestedOffset } = quantizeNf4(weight, { doubleQuant, name });
  return {
    weight: codes,
    'weight.absmax': absmax,
    'weight.nested_absmax': nestedAbsmax,
    'weight.nested_offset': nestedOffset,
  };
}

/** y = x W^T + b for modules whose weight is in 4 bits; the others are `base`'s. */
const nf4Linear =
  (base: LinearLayer): LinearLayer =>
  (name, x, weights) => {
    const weight = nf4Weight(weights, `${name}.weight`);
    if (!weight) return base(name, x, weights);
    const y = frozenLinear(x, weight);
    const bias = weights[`${name}.bias`];
    return bias ? tf.add(y, bias) : y;
  };

/** The weight as a product asks for it: some rows at a time, so that it never stands in memory as float32. */
function nf4Weight(weights: StageWeights, name: string): FrozenWeight | undefined {
  if (!(`${name}.absmax` in weights)) return undefined;
  const part = (suffix: string) => (name + suffix in weights ? storedWeight(weights, name + suffix) : undefined);
  const codes = part('') as RawTensor;
  const scales = {
    absmax: part('.absmax')!,
    nestedAbsmax: part('.nested_absmax'),
    nestedOffset: part('.nested_offset'),
  };
  let absmax: tf.Tensor | undefined;
  let table: tf.Tensor2D | undefined;
  const [outputs, half] = codes.shape;
  const inputs = 2 * half;
  return {
    shape: [outputs, inputs],
    rows(from, to, previous) {
      const packed = sliceRows(codes, from, to);
      const [first, end] = [(from * inputs) / nf4BlockSize, Math.ceil((to * inputs) / nf4BlockSize)];
      // Their first values end with the forward run.
      if (!absmax || absmax.isDisposed) [absmax, table] = [nf4Absmax(scales), nf4Table(codes)];
      const own = tf.slice(absmax, [first], [end - first]);
      const values = dequantizeNf4Codes(packed, own, [to - from, inputs], table, previous);
      packed.dispose();
      return values;
    },
  };
}
