import { UserError } from '@blockwise/errors';
import { tf, type Parameter, type Rounding } from '@blockwise/tensorflow';
import { DynamicLossScaler, type LossScaleOptions } from './loss-scaler.ts';
import { notNegative } from './option-checks.ts';
import type { OptimizerFactory } from './optimizer.ts';
import { ParameterOptimizer } from './parameter-optimizer.ts';
import { computedUpdate, type UpdateRule } from './update-rule.ts';
import { weightDecayOf, type WeightDecayOptions } from './weight-decay.ts';

/**
 * Options of lomo-optim's Lomo. Its clip_grad_norm and clip_grad_value are the training loop's, as for every optimizer (`maxGradNorm`,
 * `clipGradValue`): a norm is of all gradients, and an optimizer sees one at a time.
 */
export interface LomoOptions extends WeightDecayOptions {
  /** Default 1e-3. */
  learningRate?: number;
  /** How updated 16-bit weights are rounded; default nearest, as lomo-optim. Stochastic (bfloat16 only) does not lose small updates. */
  rounding?: Rounding;
  /** Loss scaling with skipped steps, for float16 weights (lomo-optim's loss_scale_args); default: none, full float32 gradients. */
  lossScale?: LossScaleOptions;
}

/**
 * LOMO (arXiv 2306.09782, Algorithm 1) as the package lomo-optim computes it: p = p (1 - lr weightDecay) - lr g, with weight decay 0 by
 * default. It keeps no states and no float32 copies: a 16-bit weight is float32 for its own update alone, and gradients must not outlive
 * update(), so the loop clips their norm by two backward passes.
 * @throws UserError for options out of range.
 */
export function lomo(options: LomoOptions = {}): OptimizerFactory {
  const { learningRate = 1e-3, weightDecay = 0 } = options;
  const problems = notNegative({ learningRate, weightDecay });
  if (problems.length > 0) throw UserError.of("LOMO's options", problems);
  return (parameters, compat) => {
    const decay = weightDecayOf(options, 0, compat);
    const rule: UpdateRule = {
      learningRate,
      states: () => [],
      apply: ({ name, learningRate, compute }) => compute(step, { learningRate, decay: learningRate * decay(name) }),
    };
    return fusedOptimizer(parameters, rule, options);
  };
}

const step = computedUpdate('lomo', ['learningRate', 'decay'], (weight, gradient, _states, { learningRate, decay }) => [
  tf.sub(tf.sub(weight, tf.mul(weight, decay)), tf.mul(gradient, learningRate)),
]);

/** An optimizer that updates weights where they are, the moment a gradient exists. */
export function fusedOptimizer(
  parameters: readonly Parameter[],
  rule: UpdateRule,
  options: LomoOptions,
): ParameterOptimizer {
  const { rounding, lossScale } = options;
  const other = parameters.find(({ storageDtype }) => storageDtype !== 'float16');
  if (lossScale && other)
    throw new UserError(
      `lossScale is for float16 weights, but ${other.name} is stored as ${other.storageDtype}: leave it out; bfloat16 and float32 gradients do not overflow`,
    );
  const lossScaler = lossScale && new DynamicLossScaler(lossScale);
  return new ParameterOptimizer(parameters, rule, { masters: 'transient', rounding, fused: true, lossScaler });
}
