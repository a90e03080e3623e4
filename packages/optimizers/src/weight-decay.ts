import { tf } from '@blockwise/tensorflow';
import type { Update } from './update-rule.ts';

/** Weight decay of an optimizer, in PyTorch's terms. */
export interface WeightDecayOptions {
  /** Applies to every parameter but those that `noDecay` names. */
  weightDecay?: number;
  /**
   * Names without weight decay (Hugging Face's Trainer: isNormOrBias). Default: none, as torch.optim without parameter groups.
   * The official BlockOptimizer lets the constructor's default (0.01 for AdamW) override such groups, for all parameters: so does compat
   * 'official' where `noDecay` is given, whatever `weightDecay` is (badam/block_optim.py, _switch_trainable_params_single_gpu).
   */
  noDecay?: (name: string) => boolean;
}

/** The weight decay of each parameter; `standard` is the optimizer's default. */
export function weightDecayOf(options: WeightDecayOptions, standard: number, compat?: 'official') {
  const { weightDecay = standard, noDecay } = options;
  if (noDecay && compat === 'official') return () => standard;
  return (name: string): number => (noDecay?.(name) ? 0 : weightDecay);
}

/** Whether a Hugging Face weight name is a normalisation's or a bias: what its Trainer exempts from weight decay. */
export function isNormOrBias(name: string): boolean {
  return isNorm(name) || /(^|\.)bias$/.test(name);
}

/** Whether the module that holds the weight is a normalisation (`input_layernorm`, `norm`, `LayerNorm`, `ln_1`). */
export function isNorm(name: string): boolean {
  return /norm[^.]*\.[^.]*$|(^|\.)ln_[^.]*\.[^.]*$/i.test(name);
}

/** gradient + weightDecay p, to be used inside tf.tidy(); the gradient itself where there is no decay. */
export function addDecay({ gradient, master, scalar }: Update, weightDecay: number): tf.Tensor {
  if (weightDecay === 0) return gradient;
  const values = master.read();
  const decay = tf.mul(values, scalar('weightDecay', weightDecay));
  // A read that is alive would make the update copy the master.
  values.dispose();
  const sum = tf.add(gradient, decay);
  decay.dispose();
  return sum;
}

/** p = p - rate p, in place, through one temporary of its size (ResourceScatterMul needs none, but runs on one core). */
export function shrink({ master, scalar }: Update, rate: number): void {
  tf.tidy(() => {
    const values = master.read();
    const decay = tf.mul(values, scalar('decay', rate));
    // A read that is alive would make the update copy the master.
    values.dispose();
    master.subtract(decay);
  });
}
