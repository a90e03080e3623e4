import { UserError } from '@blockwise/errors';
import {
  frozenLinear,
  linearShapes,
  storedWeight,
  weightAtRest,
  type FrozenWeight,
  type LinearLayer,
  type StagedModel,
  type StageWeights,
} from '@blockwise/model-zoo';
import {
  codeProblems,
  dequantizeWeight,
  quantizeWeight,
  schemeProblems,
  type Bits,
  type WeightScheme,
} from '@blockwise/quantization';
import { cast, castAfter, RawTensor, sliceRows, takeRaw, tf, type AnyTensor } from '@blockwise/tensorflow';
import { inputParameters, roundInput, type ActivationScheme } from './activation-ranges.ts';
import { adapterProblems } from './lora-targets.ts';
import { packLayers } from './pack-layers.ts';

/** How a model's linear modules become codes. */
export interface ModelQuantization extends WeightScheme {
  /** How their inputs are rounded; absent: not at all. */
  activations?: ActivationScheme;
}

/**
 * Post-training quantisation: puts the linear modules of a model's layers into 8 or 4 bits with min-max scales; embedding, head and norms
 * stay as they are. Consumes `base`, whose weights are quantised and freed one at a time. The codes stay codes in memory and mean float32
 * values, a few rows at a time, inside the compiled stage. Beside `<module>.weight` (int8 [outputs, inputs], or uint8 [outputs, inputs / 2]
 * with two codes a byte) there are `.weight_scale`, `.weight_zero_point` (int8, unless symmetric) and, with calibrated activations,
 * `.input_scale` and `.input_zero_point`, named as in the files of compressed-tensors.
 * @throws UserError with all that does not fit, `base` then being as it was; and naming a weight that is not finite, with which `base` is gone
 */
export function quantizeModel<Model extends StagedModel>(base: Model, scheme: ModelQuantization): Model {
  checkScheme(base, scheme);
  return packLayers(base, {
    kind: `int${scheme.bits}`,
    partsOf: (weight, module) => ({ ...codesOf(weight, scheme, `${module}.weight`), ...inputsOf(module, scheme) }),
    linearOf: (base) => {
      const linear = quantizedLinear(base, scheme);
      exact.set(linear, quantizedLinear(base, { ...scheme, activations: undefined }));
      return linear;
    },
  });
}

/** @throws UserError naming every weight that the scheme does not fit, and every module without a calibrated range */
export function checkScheme(base: StagedModel, scheme: ModelQuantization): void {
  const problems = new Set(adapterProblems(base));
  if (scheme.activations) codeProblems(scheme.activations).forEach((problem) => problems.add(`activations.${problem}`));
  for (const stage of base.stages.slice(1, -1)) {
    for (const [module, shape] of linearShapes(stage)) {
      const name = `${stage.name}.${module}`;
      schemeProblems(scheme, shape, name).forEach((problem) => problems.add(problem));
      const { ranges } = scheme.activations ?? {};
      if (ranges && !ranges.has(name)) problems.add(`activations.ranges: ${name} has none; calibrate() this model`);
      const { storageDtype } = stage.parameters.get(`${module}.weight`)!;
      if (!/float/.test(storageDtype)) problems.add(`${name} is kept as ${storageDtype}: it is quantised already`);
    }
  }
  if (problems.size > 0) throw UserError.of('this model cannot be quantised so', [...problems]);
}

/** A weight quantised. */
function codesOf(weight: RawTensor, scheme: WeightScheme, name: string): Record<string, RawTensor | undefined> {
  const values = cast(weight);
  try {
    const { codes, scale, zeroPoint } = quantizeWeight(values as tf.Tensor2D, scheme, name);
    return { weight: codes, weight_scale: scale, weight_zero_point: zeroPoint };
  } finally {
    values.dispose();
  }
}

function inputsOf(module: string, { activations }: ModelQuantization): Record<string, RawTensor> {
  if (!activations?.ranges) return {};
  const { scale, zeroPoint } = inputParameters(activations.ranges, module, activations);
  return { input_scale: takeRaw(scale, 'float32'), input_zero_point: takeRaw(zeroPoint, 'float32') };
}

const exact = new WeakMap<LinearLayer, LinearLayer>();

/** The same linear layer without rounded inputs: what its weights are. */
export const withExactInputs = (linear: LinearLayer): LinearLayer => exact.get(linear) ?? linear;

/** y = round(x) W^T + b for modules whose weight stands as codes; the others are `base`'s. */
function quantizedLinear(base: LinearLayer, { bits, activations }: ModelQuantization): LinearLayer {
  return (name, x, weights) => {
    const weight = codedWeight(weights, name, bits);
    if (!weight) return base(name, x, weights);
    const y = frozenLinear(activations ? roundInput(x, activations, calibrated(weights, name)) : x, weight);
    const bias = weights[`${name}.bias`];
    return bias ? tf.add(y, bias) : y;
  };
}

function calibrated(weights: StageWeights, name: string) {
  const scale = weights[`${name}.input_scale`];
  return scale && { scale, zeroPoint: weights[`${name}.input_zero_point`] };
}

/** The weight as a product asks for it: some rows at a time, so that it never stands in memory as float32. */
function codedWeight(weights: StageWeights, module: string, bits: Bits): FrozenWeight | undefined {
  const codes = weightAtRest(weights, `${module}.weight`);
  if (!(codes instanceof RawTensor) || !/^u?int8$/.test(codes.dtype)) return undefined;
  // As they are kept: tensors made of them end with the forward run.
  const kept = (name: string) => (name in weights ? storedWeight(weights, name) : undefined);
  const scale = kept(`${module}.weight_scale`)!;
  const zeroPoint = kept(`${module}.weight_zero_point`);
  return {
    shape: [codes.shape[0], codes.shape[1] * (8 / bits)],
    rows(from, to, previous) {
      const rows = sliceRows(codes, from, to);
      const values = castAfter(rows, previous);
      rows.dispose();
      const own = (x: AnyTensor) => {
        const all = cast(x);
        return all.shape[0] === 1 ? all : tf.slice(all, [from, 0], [to - from, all.shape[1]!]);
      };
      return dequantizeWeight(values, bits, own(scale), zeroPoint && own(zeroPoint));
    },
  };
}
