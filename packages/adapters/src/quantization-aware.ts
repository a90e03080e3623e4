import { UserError } from '@blockwise/errors';
import { linear, type LinearLayer, type Stage, type StagedModel } from '@blockwise/model-zoo';
import { fakeQuantizeWeight } from '@blockwise/quantization';
import { roundInput } from './activation-ranges.ts';
import { checkScheme, type ModelQuantization } from './quantize-model.ts';

/**
 * Quantisation-aware training: the same model, whose layers compute with fake-quantised weights (by their present min-max ranges) and, where
 * the scheme says so, inputs of its linear modules (token by token). Its parameters are `base`'s, trained as usual: gradients pass straight
 * through the roundings. What quantizeModel() with the same scheme makes of it afterwards computes the same. Takes `base` over.
 * @throws UserError with all that does not fit
 */
export function quantizationAware<Model extends StagedModel>(base: Model, scheme: ModelQuantization): Model {
  checkScheme(base, scheme);
  if (scheme.activations?.ranges)
    throw new UserError('activations.ranges: ranges move while weights are trained; leave them out, and tokens are rounded by their own'); // prettier-ignore
  if (base.stages.some(({ linear }) => linear))
    throw new UserError('this model has linear layers of another kind already: quantisation-aware training needs plain ones'); // prettier-ignore
  const layer = fakeQuantizedLinear(scheme);
  const wrap = (stage: Stage): Stage => ({
    ...stage,
    kind: `${stage.kind} fake int${scheme.bits}`,
    linear: layer,
    forward: (weights, x, context, linear = layer) => stage.forward(weights, x, context, linear),
  });
  const last = base.stages.length - 1;
  return { ...base, stages: base.stages.map((stage, i) => (i > 0 && i < last ? wrap(stage) : stage)) };
}

/** y = round(x) round(W)^T + b. */
const fakeQuantizedLinear =
  (scheme: ModelQuantization): LinearLayer =>
  (name, x, weights) => {
    const { activations } = scheme;
    const weight = fakeQuantizeWeight(weights[`${name}.weight`], scheme);
    return linear(activations ? roundInput(x, activations) : x, weight, weights[`${name}.bias`]);
  };
