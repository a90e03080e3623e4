import { UserError } from '@blockwise/errors';
import { tf } from '@blockwise/tensorflow';
import { notNegative } from './option-checks.ts';
import type { OptimizerFactory } from './optimizer.ts';
import { ParameterOptimizer, type MasterOptions } from './parameter-optimizer.ts';
import type { Update, UpdateRule } from './update-rule.ts';
import { addDecay, weightDecayOf, type WeightDecayOptions } from './weight-decay.ts';

/** torch.optim.SGD's options. */
export interface SgdOptions extends WeightDecayOptions, MasterOptions {
  /** Default 1e-3. */
  learningRate?: number;
  /** Default 0: no momentum and no state. */
  momentum?: number;
  /** The share of each gradient but the first that the momentum leaves out; default 0. */
  dampening?: number;
  /** Looks ahead along the momentum; needs momentum and no dampening. Default false. */
  nesterov?: boolean;
}

/**
 * Stochastic gradient descent as torch.optim.SGD computes it: g = g + weightDecay p; with momentum b = momentum b + (1 - dampening) g,
 * the first b being g, and g = nesterov ? g + momentum b : b; then p = p - lr g, in place. Default weight decay 0.
 * @throws UserError for options out of range.
 */
export function sgd(options: SgdOptions = {}): OptimizerFactory {
  const { learningRate = 1e-3, momentum = 0, dampening = 0, nesterov = false, weightDecay = 0 } = options;
  const problems = notNegative({ learningRate, momentum, weightDecay });
  if (!Number.isFinite(dampening)) problems.push(`dampening is ${dampening}, expected a number`);
  if (nesterov && momentum === 0) problems.push('nesterov needs momentum, which is 0');
  if (nesterov && dampening !== 0) problems.push(`nesterov allows no dampening, which is ${dampening}`);
  if (problems.length > 0) throw UserError.of("SGD's options", problems);
  return (parameters, compat) => {
    const decay = weightDecayOf(options, 0, compat);
    const apply = (update: Update) =>
      tf.tidy(() => {
        const { name, master, states, step, scalar } = update;
        const rate = scalar('learningRate', update.learningRate);
        const gradient = addDecay(update, decay(name));
        if (momentum === 0) return master.applyGradientDescent(rate, gradient);
        const share = step === 1 ? 1 : 1 - dampening;
        const damped = share === 1 ? gradient : tf.mul(gradient, scalar('share', share));
        master.applyMomentum(states[0], rate, damped, scalar('momentum', momentum), nesterov);
      });
    const states = momentum === 0 ? [] : [{ name: 'momentum_buffer' }];
    const rule: UpdateRule = { learningRate, states: () => states, apply };
    return new ParameterOptimizer(parameters, rule, options);
  };
}
