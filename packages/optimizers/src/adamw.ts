import { tf } from '@blockwise/tensorflow';
import type { OptimizerFactory } from './optimizer.ts';
import { notNegative } from './option-checks.ts';
import { ParameterOptimizer, type Update, type UpdateRule } from './parameter-optimizer.ts';
import { UserError } from './user-error.ts';
import { addDecay, weightDecayOf, type WeightDecayOptions } from './weight-decay.ts';

/** torch.optim.AdamW's and Adam's options. */
export interface AdamOptions extends WeightDecayOptions {
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
    shrink(update, update.learningRate * decay(update.name));
    step(update.gradient);
  });
}

/** Adam (arXiv 1412.6980) as torch.optim.Adam computes it: weight decay, default 0, is added to the gradient. Else as adamW(). */
export function adam(options: AdamOptions = {}): OptimizerFactory {
  return adamFactory('Adam', options, 0, (update, step, decay) => {
    tf.tidy(() => step(addDecay(update, decay(update.name))));
  });
}

type Decayed = (update: Update, step: (gradient: tf.Tensor) => void, weightDecay: (name: string) => number) => void;

function adamFactory(name: string, options: AdamOptions, standardDecay: number, decayed: Decayed): OptimizerFactory {
  const { learningRate = 1e-3, betas = [0.9, 0.999], eps = 1e-8, weightDecay = standardDecay } = options;
  const problems = notNegative({ learningRate, eps, weightDecay });
  betas.forEach((beta, i) => {
    if (!(beta >= 0 && beta < 1)) problems.push(`betas[${i}] is ${beta}, expected a number in [0, 1)`);
  });
  if (problems.length > 0) throw UserError.of(`${name}'s options`, problems);
  const step = adamStep(betas, eps);
  return (parameters, compat) => {
    const decay = weightDecayOf(options, standardDecay, compat);
    const rule: UpdateRule = {
      learningRate,
      states: () => [{ name: 'exp_avg' }, { name: 'exp_avg_sq' }],
      apply: (update) => decayed(update, (gradient) => step(update, gradient), decay),
    };
    return new ParameterOptimizer(parameters, rule);
  };
}

/**
 * PyTorch's Adam by TensorFlow's fused kernel. PyTorch divides by sqrt(v / (1 - beta2^t)) + eps, TensorFlow by sqrt(v) + epsilon: so
 * epsilon = eps sqrt(1 - beta2^t). The kernel works out 1 - beta in float32, which for 0.999 is wrong by 1.3e-5 (PyTorch does it in
 * double): its moments are those of PyTorch times the ratios below, which the step size and epsilon, made here in double, take back.
 */
function adamStep([beta1, beta2]: readonly [number, number], eps: number) {
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
      epsilon: scalar('epsilon', eps * correction2 * ratio2),
    };
    master.applyAdam(states[0], states[1], scalars, gradient);
  };
}

/** p = p - factor p, in place. */
function shrink({ master, scalar }: Update, factor: number): void {
  if (factor === 0) return;
  tf.tidy(() => {
    const values = master.read();
    const decay = tf.mul(values, scalar('decay', factor));
    // A read that is alive would make the update copy the master.
    values.dispose();
    master.subtract(decay);
  });
}
