import { UserError } from '@blockwise/errors';
import { tf } from '@blockwise/tensorflow';
import { notNegative } from './option-checks.ts';
import type { OptimizerFactory } from './optimizer.ts';
import { ParameterOptimizer, type MasterOptions } from './parameter-optimizer.ts';
import type { StateSpec, Update, UpdateRule } from './update-rule.ts';
import { addDecay, shrink, weightDecayOf, type WeightDecayOptions } from './weight-decay.ts';

/** torch.optim.AdamW's and Adam's options. */
export interface AdamOptions extends WeightDecayOptions, MasterOptions {
  /** Default 1e-3. */
  learningRate?: number;
  /** Decay of the first and the second moment per step, each in [0, 1); default [0.9, 0.999]. */
  betas?: readonly [number, number];
  /** Added to the square root of the bias-corrected second moment; default 1e-8. */
  eps?: number;
}

/**
 * AdamW (arXiv 1711.05101) as torch.optim.AdamW computes it: p = p - lr weightDecay p, then Adam's update. Default weight decay 0.01.
 * Masters and moments (`exp_avg`, `exp_avg_sq`) are float32 and updated in place; weight decay takes one temporary of the parameter's size.
 * @throws UserError for options out of range.
 */
export function adamW(options: AdamOptions = {}): OptimizerFactory {
  return adamFactory('AdamW', options, 0.01, (update, step, decay) => {
    const factor = update.learningRate * decay(update.name);
    if (factor !== 0) shrink(update, factor);
    step(update.gradient);
  });
}

/** Adam (arXiv 1412.6980) as torch.optim.Adam computes it: weight decay, default 0, is added to the gradient. Else as adamW(). */
export function adam(options: AdamOptions = {}): OptimizerFactory {
  return adamFactory('Adam', options, 0, (update, step, decay) => {
    tf.tidy(() => step(addDecay(update, decay(update.name))));
  });
}

/** Adam's moments of a parameter. */
export const adamStates: readonly StateSpec[] = [{ name: 'exp_avg' }, { name: 'exp_avg_sq' }];

type Decayed = (update: Update, step: (gradient: tf.Tensor) => void, weightDecay: (name: string) => number) => void;

/**
 * Adam's options with their defaults. @throws UserError for those out of range, `more` included, which must not be negative, together with
 * the problems found in `others`.
 */
export function adamSettings(
  name: string,
  options: AdamOptions,
  standardDecay: number,
  more = {},
  others: readonly string[] = [],
) {
  const { learningRate = 1e-3, betas = [0.9, 0.999], eps = 1e-8, weightDecay = standardDecay } = options;
  const problems = notNegative({ learningRate, eps, weightDecay, ...more });
  betas.forEach((beta, i) => {
    if (!(beta >= 0 && beta < 1)) problems.push(`betas[${i}] is ${beta}, expected a number in [0, 1)`);
  });
  problems.push(...others);
  if (problems.length > 0) throw UserError.of(`${name}'s options`, problems);
  return { learningRate, betas, eps };
}

function adamFactory(name: string, options: AdamOptions, standardDecay: number, decayed: Decayed): OptimizerFactory {
  const { learningRate, betas, eps } = adamSettings(name, options, standardDecay);
  const step = adamStep(betas, eps);
  return (parameters, compat) => {
    const decay = weightDecayOf(options, standardDecay, compat);
    const rule: UpdateRule = {
      learningRate,
      states: () => adamStates,
      apply: (update) => decayed(update, (gradient) => step(update, gradient), decay),
    };
    return new ParameterOptimizer(parameters, rule, options);
  };
}

/**
 * Adam's update with the states exp_avg and exp_avg_sq, by TensorFlow's fused kernel, which divides by sqrt(v) + epsilon. PyTorch divides
 * by sqrt(v / (1 - beta2^t)) + eps: so its epsilon is eps sqrt(1 - beta2^t). With `form` hat eps is added to sqrt(v) as it is: the epsilon
 * hat of Adam's paper (arXiv 1412.6980, end of section 2), which older code uses.
 *
 * The kernel works out 1 - beta in float32, which for 0.999 is wrong by 1.3e-5 (PyTorch does it in double): its moments are those of
 * PyTorch times the ratios below, which the step size and epsilon, made here in double, take back.
 */
export function adamStep([beta1, beta2]: readonly [number, number], eps: number, form: 'torch' | 'hat' = 'torch') {
  const { fround } = Math;
  const ratio1 = fround(1 - fround(beta1)) / fround(1 - beta1);
  const ratio2 = Math.sqrt(fround(1 - fround(beta2)) / fround(1 - beta2));
  return ({ master, states, learningRate, step, scalar }: Update, gradient: tf.Tensor): void => {
    const correction1 = 1 - beta1 ** step;
    const correction2 = Math.sqrt(1 - beta2 ** step);
    const scalars = {
      // With zero powers the kernel takes the learning rate as it is.
      beta1Power: scalar('zero', 0),
      beta2Power: scalar('zero', 0),
      learningRate: scalar('stepSize', (learningRate * correction2 * ratio2) / (correction1 * ratio1)),
      beta1: scalar('beta1', beta1),
      beta2: scalar('beta2', beta2),
      epsilon: scalar('epsilon', eps * ratio2 * (form === 'torch' ? correction2 : 1)),
    };
    // The kernel's m + (g - m) 1 is not g where m is far larger.
    for (const [i, beta] of [beta1, beta2].entries()) {
      if (beta !== 0) continue;
      const zeros = tf.zeros([...states[i].shape]);
      states[i].assign(zeros);
      zeros.dispose();
    }
    master.applyAdam(states[0], states[1], scalars, gradient);
  };
}
