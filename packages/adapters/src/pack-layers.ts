import { linearShapes, plainLinear, type LinearLayer, type Stage, type StagedModel } from '@blockwise/model-zoo';
import { Parameter, type RawTensor } from '@blockwise/tensorflow';

/** Another form of linear weights. */
export interface PackedForm {
  /** Sets stages with such weights apart from others of their kind. */
  kind: string;
  /**
   * What stands for a module's weight, under names inside the module, `weight` among them.
   * @param weight at rest; disposed by the caller
   * @param module its full name: `model.layers.0.mlp.up_proj`
   */
  partsOf(weight: RawTensor, module: string): Readonly<Record<string, RawTensor | undefined>>;
  /** Computes modules from these parts, and others by `base`. */
  linearOf(base: LinearLayer): LinearLayer;
}

/**
 * The model with the linear weights of its layers in another form; embedding, head and norms stay as they are. Consumes `base`, whose
 * weights are packed and freed one at a time; where one cannot be packed, nothing is left of it.
 */
export function packLayers<Model extends StagedModel>(base: Model, form: PackedForm): Model {
  const parameters = new Map(base.parameters);
  const dispose = () => parameters.forEach((parameter) => parameter.dispose());
  try {
    const stages = base.stages.map((stage, index) =>
      index > 0 && index < base.stages.length - 1 ? packStage(stage, parameters, form) : stage,
    );
    return { ...base, parameters, stages, dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}

/** The stage with its linear weights packed, which replace the others in `parameters`. */
function packStage(stage: Stage, parameters: Map<string, Parameter>, { kind, partsOf, linearOf }: PackedForm): Stage {
  const shapes = linearShapes(stage);
  const own = new Map<string, Parameter>();
  for (const [local, parameter] of stage.parameters) {
    const module = local.replace(/\.weight$/, '');
    if (module === local || !shapes.has(module)) {
      own.set(local, parameter);
      continue;
    }
    const name = `${stage.name}.${module}`;
    const weight = parameter.take();
    try {
      for (const [part, values] of Object.entries(partsOf(weight, name))) {
        if (!values) continue;
        const packed = new Parameter(`${name}.${part}`, values);
        own.set(`${module}.${part}`, packed);
        parameters.set(packed.name, packed);
      }
    } finally {
      weight.dispose();
    }
  }
  const linear = linearOf(stage.linear ?? plainLinear);
  return {
    ...stage,
    kind: `${stage.kind} ${kind}`,
    parameters: own,
    linear,
    linearShapes: shapes,
    forward: (weights, x, context, layer = linear) => stage.forward(weights, x, context, layer),
  };
}
