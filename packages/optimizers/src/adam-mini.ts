import { UserError } from '@blockwise/errors';
import { compile, tf } from '@blockwise/tensorflow';
import { adamSettings, adamStep, type AdamOptions } from './adamw.ts';
import { notIntegersFrom } from './option-checks.ts';
import type { OptimizerFactory } from './optimizer.ts';
import { ParameterOptimizer } from './parameter-optimizer.ts';
import type { StateSpec, Update } from './update-rule.ts';
import { shrink, weightDecayOf } from './weight-decay.ts';

/** Options of the adam-mini package. `weightDecay` defaults to 0; `noDecay` to names with norm, ln or bias in them. */
export interface AdamMiniOptions extends AdamOptions {
  /** The model's hidden size, config.json's hidden_size. */
  dim: number;
  /** num_attention_heads. */
  nHeads: number;
  /** num_key_value_heads; default nHeads. */
  nKvHeads?: number;
  /** head_dim; default dim / nHeads. */
  headDim?: number;
  /** Parts of lower-case names that tell what a parameter is, in place of the official ones. */
  names?: Partial<AdamMiniNames>;
}

/** Parts of lower-case names by what they tell. The first kind in this order that matches counts. */
export interface AdamMiniNames {
  /** Plain Adam. */
  adamBlockNames: readonly string[];
  /** Queries and keys: a second moment per head. */
  wqkNames: readonly string[];
  /** A second moment per row: token or output neuron. */
  embdNames: readonly string[];
  outputNames: readonly string[];
  wvNames: readonly string[];
  attnProjNames: readonly string[];
  mlpNames: readonly string[];
}

const officialNames: AdamMiniNames = {
  adamBlockNames: ['bias'],
  wqkNames: ['k_proj', 'q_proj', 'wq', 'wk', 'query', 'key'],
  embdNames: ['embed', 'embd', 'wte'],
  outputNames: ['lm_head', 'output', 'final_layer'],
  wvNames: ['v_proj', 'wv', 'value'],
  attnProjNames: ['o_proj', 'wo', 'attn.proj'],
  mlpNames: ['feed_forward', 'linear', 'mlp'],
};

/**
 * Adam-mini (arXiv 2406.16793) as the package adam-mini computes it: AdamW with one second moment for each block of a parameter, the mean
 * over the block of what Adam has for each element. A block is a head of a query or key matrix, a row of LoRA's A and of other matrices that are known by
 * their names, and all of a parameter that is not (a norm). Biases follow plain Adam.
 *
 * States: `m` like the parameter, `vmean` [blocks, 1], of biases `v`; float32. A step takes one temporary of the parameter's size.
 * @throws UserError for options out of range; from the factory, for a query or key matrix that does not consist of the heads.
 */
export function adamMini(options: AdamMiniOptions): OptimizerFactory {
  const { dim, nHeads, nKvHeads = nHeads, headDim = dim / nHeads } = options;
  const own = notIntegersFrom(1, { dim, nHeads, nKvHeads, headDim });
  const { learningRate, betas, eps } = adamSettings('Adam-mini', options, 0, {}, own);
  const names = { ...officialNames, ...options.names };
  const heads = { dim: headDim, counts: [nHeads, nKvHeads] };
  const plainStep = adamStep(betas, eps);
  return (parameters, compat) => {
    const decay = weightDecayOf({ noDecay: (name) => /norm|ln|bias/i.test(name), ...options }, 0, compat);
    const split = new Map(parameters.map(({ name, shape }) => [name, blocksOf(name, shape, names, heads.dim)]));
    const problems = parameters.flatMap(({ name, shape }) =>
      kindOf(name, shape, names) === 'head' && !heads.counts.some((count) => count * heads.dim === shape[0])
        ? [`${name} has ${shape[0]} rows, which is neither nHeads nor nKvHeads (${heads.counts.join(', ')}) heads of headDim ${heads.dim}`] // prettier-ignore
        : [],
    );
    if (problems.length > 0) throw UserError.of("Adam-mini's options", problems);
    const states = ({ name }: { name: string }): StateSpec[] => {
      const blocks = split.get(name);
      return blocks ? [{ name: 'm' }, { name: 'vmean', shape: [blocks, 1] }] : [{ name: 'm' }, { name: 'v' }];
    };
    const apply = (update: Update) => {
      const factor = update.learningRate * decay(update.name);
      if (factor !== 0) shrink(update, factor);
      if (split.get(update.name)) blockStep(update, betas, eps);
      else plainStep(update, update.gradient);
    };
    return new ParameterOptimizer(parameters, { learningRate, states, apply }, options);
  };
}

function kindOf(name: string, shape: readonly number[], names: AdamMiniNames): 'adam' | 'head' | 'row' | 'whole' {
  const lower = name.toLowerCase();
  const has = (parts: readonly string[]) => parts.some((part) => lower.includes(part));
  if (has(names.adamBlockNames)) return 'adam';
  if (shape.length !== 2) return 'whole';
  // The rows of an adapter's A are its ranks, not heads.
  if (has(names.wqkNames)) return lower.includes('lora_a') ? 'row' : 'head';
  const { embdNames, outputNames, wvNames, attnProjNames, mlpNames } = names;
  return [embdNames, outputNames, wvNames, attnProjNames, mlpNames].some(has) ? 'row' : 'whole';
}

/** How many second moments a parameter has; none for one per element. */
function blocksOf(name: string, shape: readonly number[], names: AdamMiniNames, headDim: number): number | undefined {
  return { adam: undefined, head: shape[0] / headDim, row: shape[0], whole: 1 }[kindOf(name, shape, names)];
}

/** m = m + (1 - beta1)(g - m); v = beta2 v + (1 - beta2) mean(g^2); p = p - lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps). */
function blockStep(
  { master, states: [m, vmean], gradient, learningRate, step, scalar }: Update,
  [beta1, beta2]: readonly [number, number],
  eps: number,
): void {
  const values = [m.read(), vmean.read()];
  const [mChange, newV, rates] = moved(
    ...[gradient, ...values],
    ...[scalar('fresh1', 1 - beta1), scalar('beta2', beta2), scalar('fresh2', 1 - beta2), scalar('eps', eps)],
    ...[scalar('correction2', Math.sqrt(1 - beta2 ** step)), scalar('rate', learningRate / (1 - beta1 ** step))],
  );
  // A read that is alive would make the update copy the variable.
  tf.dispose(values);
  m.subtract(mChange);
  vmean.assign(newV);
  mChange.dispose();
  const momentum = m.read();
  const [change] = scaled(momentum, rates);
  momentum.dispose();
  master.subtract(change);
  tf.dispose([newV, rates, change]);
}

/** (g, m, v [B, 1], 1 - beta1, beta2, 1 - beta2, eps, sqrt(1 - beta2^t), lr / (1 - beta1^t)) -> what to subtract from m, new v, rate of each block [B, 1]. */
const moved = compile('adam_mini_moments', (...inputs) => {
  const [gradient, m, v, fresh1, beta2, fresh2, eps, correction2, rate] = inputs as tf.Tensor[];
  const blocks = tf.reshape(gradient, [v.shape[0], -1]);
  const newV = tf.add(tf.mul(v, beta2), tf.mul(tf.mean(tf.square(blocks), 1, true), fresh2));
  const rates = tf.div(rate, tf.add(tf.div(tf.sqrt(newV), correction2), eps));
  return [tf.mul(tf.sub(m, gradient), fresh1), newV, rates];
});

/** (m, rates [B, 1]) -> m with each of its B blocks times its rate. */
const scaled = compile('adam_mini_change', (...inputs) => {
  const [m, rates] = inputs as tf.Tensor[];
  return [tf.reshape(tf.mul(tf.reshape(m, [rates.shape[0], -1]), rates), m.shape)];
});
