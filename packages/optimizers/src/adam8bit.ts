import { codeTable, dequantizeBlockwise, dynamicMap, quantizeBlockwise } from '@blockwise/quantization';
import {
  compile,
  concatRows,
  elementCount,
  RawTensor,
  sliceRows,
  tf,
  type AnyTensor,
  type Variable,
} from '@blockwise/tensorflow';
import { adamSettings, adamStates, adamStep, type AdamOptions } from './adamw.ts';
import type { OptimizerFactory } from './optimizer.ts';
import { ParameterOptimizer } from './parameter-optimizer.ts';
import type { StateSpec, Update } from './update-rule.ts';
import { shrink, weightDecayOf } from './weight-decay.ts';

/** Options of bitsandbytes' Adam8bit. */
export interface Adam8bitOptions extends AdamOptions {
  /** Parameters of fewer elements keep float32 moments; default 4096. */
  min8bitSize?: number;
}

/**
 * AdamW with 8-bit moments (arXiv 2110.02861) as bitsandbytes' AdamW8bit computes it: per step and element, moments are made float32, moved,
 * used, and quantised in blocks of 256 by the dynamic maps (`state1`, `absmax1`, `state2`, `absmax2`): 2.03 bytes instead of 8. Default weight
 * decay 0.01.
 * @throws UserError for options out of range.
 */
export function adamW8bit(options: Adam8bitOptions = {}): OptimizerFactory {
  return factory('AdamW8bit', options, 0.01);
}

/** bitsandbytes' Adam8bit: as adamW8bit() (weight decay is decoupled there too), by default without weight decay. */
export function adam8bit(options: Adam8bitOptions = {}): OptimizerFactory {
  return factory('Adam8bit', options, 0);
}

function factory(name: string, options: Adam8bitOptions, standardDecay: number): OptimizerFactory {
  const { min8bitSize = 4096 } = options;
  const { learningRate, betas, eps } = adamSettings(name, options, standardDecay, { min8bitSize });
  const [stepIn8bit, stepInFloat] = [adam8bitStep(betas, eps), adamStep(betas, eps)];
  return (parameters, compat) => {
    const decay = weightDecayOf(options, standardDecay, compat);
    const in8bit = (shape: readonly number[]) => elementCount(shape) >= min8bitSize;
    const apply = (update: Update) => {
      const factor = update.learningRate * decay(update.name);
      if (factor !== 0) shrink(update, factor);
      if (in8bit(update.gradient.shape)) stepIn8bit(update);
      else stepInFloat(update, update.gradient);
    };
    const states = ({ shape }: { shape: readonly number[] }) =>
      in8bit(shape) ? statesIn8bit(elementCount(shape)) : adamStates;
    return new ParameterOptimizer(parameters, { learningRate, states, apply }, options);
  };
}

const blockSize = 256;
const [first, second] = [true, false].map((signed) => ({ code: dynamicMap(signed), blockSize }));

/** Zeros: with an absmax of 0 every code means 0. */
function statesIn8bit(elements: number): StateSpec[] {
  const [codes, blocks] = [[elements], [Math.ceil(elements / blockSize)]];
  return [
    { name: 'state1', shape: codes, dtype: 'uint8' },
    { name: 'absmax1', shape: blocks },
    { name: 'state2', shape: codes, dtype: 'uint8' },
    { name: 'absmax2', shape: blocks },
  ];
}

/** Elements whose moments are float32 at a time, whole blocks: 16 MiB a moment. */
const pieceSize = 2 ** 22;

function adam8bitStep([beta1, beta2]: readonly [number, number], eps: number) {
  return ({ master, states, gradient, learningRate, step, scalar }: Update): void => {
    const scalars = [
      ...[scalar('beta1', beta1), scalar('fresh1', 1 - beta1), scalar('beta2', beta2), scalar('fresh2', 1 - beta2)],
      ...[scalar('correction2', Math.sqrt(1 - beta2 ** step)), scalar('eps', eps)],
    ];
    const n = gradient.size;
    const flat = tf.reshape(gradient, [n]);
    const values = (states as readonly Variable<AnyTensor>[]).map((state) => state.read());
    const tables = [codeTable(first.code), codeTable(second.code)];
    const moved = Array.from({ length: Math.ceil(n / pieceSize) }, (_, i) => {
      const rows = [flat, ...values].map((x) => piece(x, i, x.shape[0] === n ? pieceSize : pieceSize / blockSize));
      const outputs = moments(...rows, ...tables, ...scalars);
      free(rows);
      return outputs;
    });
    // A read that is alive would make the update copy the variable.
    free([...values, ...tables, flat]);
    const [change, ...next] = moved[0].map((_, i) => concatRows(moved.map((outputs) => outputs[i])));
    (states as readonly Variable<AnyTensor>[]).forEach((state, i) => state.assign(next[i]));
    const shaped = tf.reshape(change as tf.Tensor, gradient.shape);
    master.applyGradientDescent(scalar('stepSize8bit', learningRate / (1 - beta1 ** step)), shaped);
    free([change, shaped, ...next]);
  };
}

/** (g, state1, absmax1, state2, absmax2, tables, scalars) -> m / (sqrt(v) / correction2 + eps), and the new states. */
const moments = compile<AnyTensor[]>('adam8bit', (...inputs) => {
  const [g, codes1, absmax1, codes2, absmax2, table1, table2, ...scalars] = inputs;
  const [gradient, beta1, fresh1, beta2, fresh2, correction2, eps] = [g, ...scalars] as tf.Tensor[];
  const moment1 = dequantizeBlockwise(codes1, absmax1 as tf.Tensor, first);
  const m = tf.add(tf.mul(moment1, beta1), tf.mul(gradient, fresh1));
  const moment2 = dequantizeBlockwise(codes2, absmax2 as tf.Tensor, second);
  const v = tf.add(tf.mul(moment2, beta2), tf.mul(tf.square(gradient), fresh2));
  const change = tf.div(m, tf.add(tf.div(tf.sqrt(v), correction2), eps));
  const [state1, state2] = [quantizeBlockwise(m, first, table1), quantizeBlockwise(v, second, table2)];
  return [change, state1.codes, state1.absmax, state2.codes, state2.absmax];
});

/** The `index`-th `size` elements of a vector; the caller's. */
function piece(x: AnyTensor, index: number, size: number): AnyTensor {
  const [from, to] = [index * size, Math.min((index + 1) * size, x.shape[0])];
  return x instanceof RawTensor ? sliceRows(x, from, to) : tf.slice(x, from, to - from);
}

function free(tensors: readonly AnyTensor[]): void {
  tensors.forEach((tensor) => tensor.dispose());
}
