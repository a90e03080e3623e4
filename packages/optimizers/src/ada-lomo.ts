import { UserError } from '@blockwise/errors';
import { columnSums, tf } from '@blockwise/tensorflow';
import { fusedOptimizer, type LomoOptions } from './lomo.ts';
import { notNegative } from './option-checks.ts';
import type { OptimizerFactory } from './optimizer.ts';
import { computedUpdate, type UpdateRule } from './update-rule.ts';
import { weightDecayOf } from './weight-decay.ts';

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
  return (parameters, compat) => {
    const decay = weightDecayOf(options, 0, compat);
    const states: UpdateRule['states'] = ({ shape }) =>
      shape.length === 2
        ? [
            { name: 'exp_avg_sq_row', shape: [shape[0]] },
            { name: 'exp_avg_sq_col', shape: [shape[1]] },
          ]
        : [{ name: 'exp_avg_sq' }];
    const rule: UpdateRule = {
      ...{ learningRate, states },
      apply: ({ name, learningRate, step, compute }) => {
        const fresh = step ** decayRate;
        const [eps0, eps1] = eps;
        const own = { clipThreshold, learningRate, decay: decay(name) };
        compute(adaLomoStep, { beta: 1 - fresh, fresh, eps0, eps1, ...own });
      },
    };
    return fusedOptimizer(parameters, rule, options);
  };
}

const adaLomoStep = computedUpdate(
  'adalomo',
  ['beta', 'fresh', 'eps0', 'eps1', 'clipThreshold', 'learningRate', 'decay'],
  (weight, gradient, states, { beta, fresh, eps0, eps1, clipThreshold, learningRate, decay }) => {
    const squares = tf.square(gradient);
    const moved = (moment: tf.Tensor, square: tf.Tensor) =>
      tf.add(tf.mul(moment, beta), tf.mul(tf.add(square, eps0), fresh));
    const means = () => [tf.mean(squares, 1), tf.div(columnSums(squares), weight.shape[0])];
    const moments =
      states.length === 2 ? means().map((mean, i) => moved(states[i], mean)) : [moved(states[0], squares)];
    const [row, column] = moments;
    const update = column
      ? tf.mul(tf.mul(gradient, tf.rsqrt(column)), tf.expandDims(tf.rsqrt(tf.div(row, tf.mean(row))), 1))
      : tf.mul(gradient, tf.rsqrt(row));
    const size = tf.mul(learningRate, tf.maximum(eps1, rootMeanSquare(weight)));
    const rate = tf.div(size, tf.maximum(1, tf.div(rootMeanSquare(update), clipThreshold)));
    const shrunk = tf.sub(weight, tf.mul(weight, tf.mul(size, decay)));
    return [tf.sub(shrunk, tf.mul(update, rate)), ...moments];
  },
);

function rootMeanSquare(x: tf.Tensor): tf.Tensor {
  const squares = x.rank === 2 ? columnSums(tf.sum(tf.square(x), 1, true)) : tf.square(x);
  return tf.sqrt(tf.div(tf.sum(squares), x.size));
}
