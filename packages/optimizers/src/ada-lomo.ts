import { attribute, compile, dtypes, operation, tf } from '@blockwise/tensorflow';
import { fusedOptimizer, type LomoOptions } from './lomo.ts';
import { notNegative } from './option-checks.ts';
import type { OptimizerFactory } from './optimizer.ts';
import type { Update, UpdateRule } from './parameter-optimizer.ts';
import { UserError } from './user-error.ts';
import { shrink, weightDecayOf } from './weight-decay.ts';

/** Options of lomo-optim's AdaLomo; clipping as for lomo(). */
export interface AdaLomoOptions extends LomoOptions {
  /** Added to squared gradients; and the least root mean square of a weight that its learning rate is multiplied by. Default [1e-30, 1e-3]. */
  eps?: readonly [number, number];
  /** The root mean square that an update may have before it is scaled down; default 1. */
  clipThreshold?: number;
  /** The second moment's decay in step t is 1 - t^decayRate; at most 0, default -0.8. */
  decayRate?: number;
}

/**
 * AdaLomo (arXiv 2310.10195) as the package lomo-optim computes it: LOMO with Adafactor's second moment (arXiv 1804.04235), kept for a
 * matrix as the means of its rows and columns, and updates in proportion to the weight. Letters: R rows, C columns.
 *
 * With b = 1 - t^decayRate: v = b v + (1 - b)(g^2 + eps[0]), of a matrix as row [R] and col [C]; u = g / sqrt(v), of a matrix
 * g / sqrt(row / mean(row)) / sqrt(col); u = u / max(1, rms(u) / clipThreshold); s = lr max(eps[1], rms(p)); p = p (1 - s weightDecay) - s u.
 * @throws UserError for options out of range.
 */
export function adaLomo(options: AdaLomoOptions = {}): OptimizerFactory {
  const { learningRate = 1e-3, eps = [1e-30, 1e-3], clipThreshold = 1, decayRate = -0.8, weightDecay = 0 } = options;
  const problems = notNegative({ learningRate, weightDecay, 'eps[0]': eps[0], 'eps[1]': eps[1], clipThreshold });
  if (clipThreshold === 0) problems.push('clipThreshold is 0, expected a positive number');
  if (!(Number.isFinite(decayRate) && decayRate <= 0))
    problems.push(`decayRate is ${decayRate}, expected a number of at most 0`);
  if (problems.length > 0) throw UserError.of("AdaLomo's options", problems);
  const apply = (update: Update, weightDecay: number) => {
    const { master, states, gradient, step, scalar } = update;
    const values = master.read();
    const moments = states.map((state) => state.read());
    const fresh = step ** decayRate;
    const scalars = [
      scalar('beta', 1 - fresh),
      scalar('fresh', fresh),
      scalar('eps0', eps[0]),
      scalar('eps1', eps[1]),
      scalar('clipThreshold', clipThreshold),
      scalar('learningRate', update.learningRate),
    ];
    const compiled = states.length === 2 ? factored : unfactored;
    const [change, rate, size, ...next] = compiled(values, gradient, ...moments, ...scalars);
    // A read that is alive would make the update copy the variable.
    tf.dispose([values, ...moments]);
    next.forEach((moment, i) => states[i].assign(moment));
    if (weightDecay !== 0) tf.tidy(() => shrink(master, tf.mul(size, weightDecay)));
    master.applyGradientDescent(rate, change);
    tf.dispose([change, rate, size, ...next]);
  };
  return (parameters, compat) => {
    const decay = weightDecayOf(options, 0, compat);
    const states: UpdateRule['states'] = ({ shape }) =>
      shape.length === 2
        ? [
            { name: 'exp_avg_sq_row', shape: [shape[0]] },
            { name: 'exp_avg_sq_col', shape: [shape[1]] },
          ]
        : [{ name: 'exp_avg_sq' }];
    const rule: UpdateRule = { learningRate, states, apply: (update) => apply(update, decay(update.name)) };
    return fusedOptimizer(parameters, rule, options);
  };
}

/** (p, g, row, col, beta, 1 - beta, eps0, eps1, threshold, lr) -> u, the rate to subtract it at, s, new row, new col. */
const factored = compile('adalomo_factored', (...inputs) => {
  const [weight, gradient, row, col, beta, fresh, eps0, ...rest] = inputs as tf.Tensor[];
  const squares = tf.square(gradient);
  const moved = (moment: tf.Tensor, axis: number) =>
    tf.add(tf.mul(moment, beta), tf.mul(tf.add(tf.mean(squares, axis), eps0), fresh));
  const [newRow, newCol] = [moved(row, 1), moved(col, 0)];
  const byRow = tf.rsqrt(tf.div(newRow, tf.mean(newRow)));
  const update = tf.mul(tf.mul(gradient, tf.rsqrt(newCol)), tf.expandDims(byRow, 1));
  return [update, ...rates(weight, update, rest), newRow, newCol];
});

/** (p, g, v, the same scalars) -> u, the rate to subtract it at, s, new v. */
const unfactored = compile('adalomo_unfactored', (...inputs) => {
  const [weight, gradient, moment, beta, fresh, eps0, ...rest] = inputs as tf.Tensor[];
  const moved = tf.add(tf.mul(moment, beta), tf.mul(tf.add(tf.square(gradient), eps0), fresh));
  const update = tf.mul(gradient, tf.rsqrt(moved));
  return [update, ...rates(weight, update, rest), moved];
});

/** s / max(1, rms(u) / threshold), and s = lr max(eps1, rms(p)). */
function rates(weight: tf.Tensor, update: tf.Tensor, [eps1, threshold, learningRate]: tf.Tensor[]): tf.Tensor[] {
  const size = tf.mul(learningRate, tf.maximum(eps1, rootMeanSquare(weight)));
  return [tf.div(size, tf.maximum(1, tf.div(rootMeanSquare(update), threshold))), size];
}

function rootMeanSquare(x: tf.Tensor): tf.Tensor {
  // L2Loss is sum(x^2) / 2 without a temporary of x's size.
  const [half] = operation('L2Loss', [attribute.type('T', dtypes.float32.code)], [x]);
  return tf.sqrt(tf.mul(half, 2 / x.size));
}
