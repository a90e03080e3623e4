import {
  callStage,
  plainLinear,
  stageInputs,
  type BatchLayout,
  type Context,
  type Stage,
  type StagedModel,
} from '@blockwise/model-zoo';
import { affineParameters, fakeQuantize, fakeQuantizeTokens, type CodeScheme } from '@blockwise/quantization';
import { compile, tf, type CompiledFunction } from '@blockwise/tensorflow';

/** The smallest and the largest input that each linear module was given: its Hugging Face name -> range. */
export type ActivationRanges = ReadonlyMap<string, { readonly min: number; readonly max: number }>;

/** How the inputs of linear modules are rounded. */
export interface ActivationScheme extends CodeScheme {
  /** From calibrate(): one scale for all that a module is given. Absent: each token by its own range, as it comes. */
  ranges?: ActivationRanges;
}

/** A batch to calibrate with, as loaders make them. */
export interface CalibrationBatch extends BatchLayout {
  /** int32 [B * T] */
  readonly inputIds: Int32Array;
}

/**
 * Runs batches through the layers of a model, stage by stage, and notes the range of what each linear module is given (as torch's
 * MinMaxObserver does, padding included). Borrows the model.
 */
export async function calibrate(model: StagedModel, batches: Iterable<CalibrationBatch>): Promise<ActivationRanges> {
  const ranges = new Map<string, { min: number; max: number }>();
  const observers = new Map<string, Observer>();
  for (const batch of batches) {
    const context = model.context(batch);
    let x: tf.Tensor = tf.tensor1d(batch.inputIds, 'int32');
    for (const stage of model.stages.slice(0, -1)) {
      let observer = observers.get(stage.kind);
      if (!observer) observers.set(stage.kind, (observer = observerOf(stage)));
      x = await observe(observer, stage, x, context, ranges);
    }
    tf.dispose([x, ...context]);
  }
  observers.forEach(({ run }) => run.dispose());
  return ranges;
}

/** Runs a stage of one kind; beside its output, the smallest and the largest input of each of `modules`. */
interface Observer {
  readonly run: CompiledFunction;
  readonly modules: readonly string[];
}

function observerOf(stage: Stage): Observer {
  const base = stage.linear ?? plainLinear;
  const modules: string[] = [];
  const run = compile(`observe_${stage.kind}`, (...inputs) => {
    const { weights, rest } = stageInputs(stage, inputs);
    const extremes: tf.Tensor[] = [];
    modules.length = 0; // each shape of batch is traced anew
    const y = stage.forward(weights, rest[0], rest.slice(1), (name, x, w) => {
      modules.push(name);
      extremes.push(tf.stack([tf.min(x), tf.max(x)]));
      return base(name, x, w);
    });
    return extremes.length > 0 ? [y, tf.stack(extremes)] : [y];
  });
  return { run, modules };
}

/** The stage's output; widens `ranges`; consumes x. */
async function observe(
  { run, modules }: Observer,
  stage: Stage,
  x: tf.Tensor,
  context: Context,
  ranges: Map<string, { min: number; max: number }>,
): Promise<tf.Tensor> {
  const [y, extremes] = await callStage(run, stage, [x, ...context]);
  x.dispose();
  if (!extremes) return y;
  const values = (await extremes.data()) as Float32Array;
  extremes.dispose();
  for (const [i, module] of modules.entries()) {
    const name = `${stage.name}.${module}`;
    const { min, max } = ranges.get(name) ?? { min: Infinity, max: -Infinity };
    ranges.set(name, { min: Math.min(min, values[2 * i]), max: Math.max(max, values[2 * i + 1]) });
  }
  return y;
}

/** Scale and zero point, float32 scalars, of a module's calibrated inputs; the caller's. */
export function inputParameters(ranges: ActivationRanges, module: string, scheme: CodeScheme) {
  const { min, max } = ranges.get(module)!;
  return tf.tidy(() => {
    const { scale, zeroPoint } = affineParameters(tf.scalar(min), tf.scalar(max), scheme);
    return { scale, zeroPoint: zeroPoint ?? tf.scalar(0) };
  });
}

/** A module's input, rounded: by `calibrated` scale and zero point where there are any, else token by token. */
export function roundInput(
  x: tf.Tensor2D,
  scheme: ActivationScheme,
  calibrated?: { scale: tf.Tensor; zeroPoint: tf.Tensor },
): tf.Tensor2D {
  return calibrated ? (fakeQuantize(x, calibrated, scheme.bits) as tf.Tensor2D) : fakeQuantizeTokens(x, scheme);
}
