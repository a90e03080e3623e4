import { didYouMean } from '@blockwise/errors';
import {
  attribute,
  batchMatMul,
  cast,
  compile,
  dtypes,
  matMul2d,
  matMulBfloat16,
  operation,
  tf,
  type AnyTensor,
  type CompiledFunction,
  type Variable,
} from '@blockwise/tensorflow';
import { adamSettings, adamStates, adamStep, type AdamOptions } from './adamw.ts';
import { notIntegersFrom } from './option-checks.ts';
import type { OptimizerFactory } from './optimizer.ts';
import { ParameterOptimizer } from './parameter-optimizer.ts';
import { computedUpdate, type ComputedUpdate, type StateSpec, type Update, type UpdateRule } from './update-rule.ts';
import { shrink, weightDecayOf } from './weight-decay.ts';

/** Every value of projType. */
export const galoreProjTypes = ['std', 'reverse_std', 'left', 'right', 'full'] as const;
export type GaloreProjType = (typeof galoreProjTypes)[number];

/** Options of galore-torch's GaLoreAdamW; those of a projection default to the values of its readme, `eps` to 1e-6, `weightDecay` to 0. */
export interface GaloreOptions extends AdamOptions {
  /** Rank of the projected gradients; those with a smaller side keep that. Default 128. */
  rank?: number;
  /** Updates of a weight from one projection to the next; default 200. */
  updateProjGap?: number;
  /** Factor of the projected weights' updates; default 0.25. */
  scale?: number;
  /**
   * The side of a gradient [m, n] that is projected to the rank: left makes it [r, n], right [m, r], full [r, r]. std (default) projects
   * the smaller side, reverse_std the larger one. (With m >= n std is right, else left.)
   */
  projType?: GaloreProjType;
  /** What gradients are projected and updates are projected back in; default float32. (galore-torch: in the gradients' dtype.) */
  computeDtype?: 'float32' | 'bfloat16';
  /** Whether moments are made smaller by the size of their gradients at first; default true. */
  correctBias?: boolean;
  /** Names of the weights that are projected where they are matrices; default those in a module with attn or mlp in its name. */
  target?: (name: string) => boolean;
}

/**
 * GaLore (arXiv 2403.03507, Algorithm 2) as galore-torch's AdamW computes it: with the first r singular vectors P of the gradient (left or
 * right ones), taken anew every updateProjGap updates, R = P^T g; m, v are Adam's moments of R; N = m / (sqrt(v) + eps);
 * p = p - lr sqrt(1 - beta2^t) / (1 - beta1^t) scale P N; then p = p - lr weightDecay p. Other parameters follow the same without P and
 * scale. Moments keep their values when P changes.
 *
 * States of a target: exp_avg and exp_avg_sq of R's shape and `left` [m, r] or `right` [r, n]. A step takes one temporary of the weight's
 * size. Between new projections R is made of a linear layer's factors, g = dy^T x (Optimizer.projection): P^T g = (dy P)^T x takes r / n + r / m of
 * the multiplications of g, which never exists. The sign of a singular vector is arbitrary and counts once the moments of the last projection meet the next one (the official code
 * has LAPACK's): here each vector's entry of largest magnitude is positive.
 * @throws UserError for options out of range.
 */
export function galore(options: GaloreOptions = {}): OptimizerFactory {
  const settings = galoreSettings(options);
  const { rank, updateProjGap, scale, projType, correctBias, computeDtype, target } = settings;
  const { learningRate, betas, eps } = settings;
  const isProjected = (name: string, shape: readonly number[]) => shape.length === 2 && target(name);
  const plainStep = adamStep(betas, eps, 'hat');
  const project = (sides: Sides, [, , ...projections]: readonly Variable[], terms: readonly AnyTensor[]) => {
    const own = projections.map((projection) => projection.read());
    const [result] = projectionsIn[computeDtype][sides](...terms, ...own);
    tf.dispose(own);
    return result;
  };
  return (parameters, compat) => {
    const decay = weightDecayOf(options, 0, compat);
    const apply = (update: Update) => {
      const { name, shape, learningRate } = update;
      // Without bias correction a step is as the infinitely late one.
      const step = correctBias ? update.step : Infinity;
      const shrinkage = learningRate * decay(name);
      if (isProjected(name, shape)) {
        const sides = sidesOf(projType, shape);
        const [beta1, beta2] = betas;
        const stepSize = (learningRate * Math.sqrt(1 - beta2 ** step)) / (1 - beta1 ** step);
        const moments = { beta1, fresh1: 1 - beta1, beta2, fresh2: 1 - beta2, eps };
        const scalars = { ...moments, scaledStep: stepSize * scale, decay: shrinkage };
        const isWhole = update.gradient.shape.join() === shape.join();
        const projected = isWhole ? project(sides, update.states, [update.gradient]) : update.gradient;
        update.compute(steps[computeDtype][sides], scalars, projected);
        if (isWhole) projected.dispose();
      } else {
        plainStep({ ...update, step }, update.gradient);
        if (shrinkage !== 0) shrink(update, shrinkage);
      }
    };
    const isDue = ({ name, shape, step }: Pick<Update, 'name' | 'shape' | 'step'>) =>
      isProjected(name, shape) && (step - 1) % updateProjGap === 0;
    const joint = {
      isDue,
      prepare: (updates: readonly Update[]) => renewProjections(updates, sidesOf(projType, updates[0].shape)),
    };
    const states = ({ name, shape }: { name: string; shape: readonly number[] }) =>
      isProjected(name, shape) ? projectedStates(shape, rank, sidesOf(projType, shape)) : adamStates;
    const projection: UpdateRule['projection'] = (update) => {
      const { name, shape, states } = update;
      if (!isProjected(name, shape) || isDue(update)) return undefined;
      // Of a gradient's factors a row takes rank (m + n) multiplications instead of m n.
      const isLess = rank * (shape[0] + shape[1]) < shape[0] * shape[1];
      const of = (...terms: AnyTensor[]) => project(sidesOf(projType, shape), states, terms);
      return isLess ? { shape: states[0].shape, of } : undefined;
    };
    return new ParameterOptimizer(parameters, { learningRate, states, joint, projection, apply }, options);
  };
}

/** The options with their defaults. @throws UserError for those out of range */
function galoreSettings(options: GaloreOptions) {
  const { rank = 128, updateProjGap = 200, scale = 0.25, projType = 'std', correctBias = true } = options;
  const { computeDtype = 'float32', target = (name: string) => /attn|mlp/.test(name), eps = 1e-6 } = options;
  const problems = notIntegersFrom(1, { rank, updateProjGap });
  if (!galoreProjTypes.includes(projType))
    problems.push(
      `projType is ${projType}${didYouMean(projType, galoreProjTypes)}: expected ${galoreProjTypes.join(', ')}`,
    );
  const adam = adamSettings('GaLore', { ...options, eps }, 0, { scale }, problems);
  return { rank, updateProjGap, scale, projType, correctBias, computeDtype, target, ...adam };
}

type Sides = 'left' | 'right' | 'full';

function sidesOf(projType: GaloreProjType, [rows, columns]: readonly number[]): Sides {
  if (projType === 'std') return rows >= columns ? 'right' : 'left';
  if (projType === 'reverse_std') return rows >= columns ? 'left' : 'right';
  return projType;
}

function projectedStates([rows, columns]: readonly number[], rank: number, sides: Sides): StateSpec[] {
  const r = Math.min(rank, rows, columns);
  const shape = [sides === 'right' ? rows : r, sides === 'left' ? columns : r];
  return [
    { name: 'exp_avg', shape },
    { name: 'exp_avg_sq', shape },
    ...(sides === 'right' ? [] : [{ name: 'left', shape: [rows, r] }]),
    ...(sides === 'left' ? [] : [{ name: 'right', shape: [r, columns] }]),
  ];
}

/** Sets the projections of weights of one shape to their gradients' first singular vectors: TensorFlow takes a core for each of a batch. */
function renewProjections(updates: readonly Update[], sides: Sides): void {
  tf.tidy(() => {
    const [u, v] = singularVectors(tf.stack(updates.map(({ gradient }) => gradient)) as tf.Tensor3D);
    updates.forEach(({ states: [, , ...projections] }, i) => {
      const vectors = (all: tf.Tensor, rank: number) => firstVectors(tf.gather(all, i), rank);
      if (sides !== 'right') projections[0].assign(vectors(u, projections[0].shape[1]));
      if (sides !== 'left') projections.at(-1)!.assign(tf.transpose(vectors(v, projections.at(-1)!.shape[0])));
    });
  });
}

/**
 * Left and right singular vectors of matrices, float32 [B, m, n] -> [B, m, k] and [B, n, k], k = min(m, n). Of a long matrix only the triangle R
 * of A = Q R is decomposed: R = U S V^T makes A = (Q U) S V^T.
 */
function singularVectors(a: tf.Tensor3D): [u: tf.Tensor, v: tf.Tensor] {
  const [, m, n] = a.shape;
  const T = attribute.type('T', dtypes.float32.code);
  const thin = attribute.bool('full_matrices', false);
  if (m < n) {
    const [v, u] = singularVectors(tf.transpose(a, [0, 2, 1]));
    return [u, v];
  }
  const decompose = (x: tf.Tensor) => operation('Svd', [attribute.bool('compute_uv', true), thin, T], [x]).slice(1);
  if (m === n) return decompose(a) as [tf.Tensor, tf.Tensor];
  const [q, r] = operation('Qr', [thin, T], [a]);
  const [u, v] = decompose(r);
  return [batchMatMul(q, u), v];
}

/** The first `rank` columns of `vectors` [N, k], each with the sign that makes its entry of largest magnitude positive. */
function firstVectors(vectors: tf.Tensor, rank: number): tf.Tensor {
  const first = tf.slice(vectors as tf.Tensor2D, [0, 0], [-1, rank]);
  return tf.mul(first, tf.where(tf.greaterEqual(tf.max(first, 0), tf.neg(tf.min(first, 0))), 1, -1));
}

type ComputeDtype = NonNullable<GaloreOptions['computeDtype']>;

/** The product of two matrices, each transposed on request. */
const multiplyIn: Record<ComputeDtype, (a: AnyTensor, b: AnyTensor, aT?: boolean, bT?: boolean) => AnyTensor> = {
  float32: (a, b, aT, bT) => matMul2d(cast(a), cast(b), aT, bT),
  bfloat16: matMulBfloat16,
};

/** Projections of a state list's end, L^T [m, r] and R [r, n]: one is undefined where one side is projected. */
function sidesIn<T>(sides: Sides, projections: readonly T[]): [left: T | undefined, right: T | undefined] {
  return [sides === 'right' ? undefined : projections[0], sides === 'left' ? undefined : projections.at(-1)];
}

/** L G R^T of a gradient [m, n], or of its factors: G = dy^T x makes it (dy L^T)^T (x R^T). */
const projectionIn = (sides: Sides, dtype: ComputeDtype): CompiledFunction => {
  const multiply = multiplyIn[dtype];
  return compile(`galore_project_${sides}`, (...inputs) => {
    const [left, right] = sidesIn(sides, inputs.splice(sides === 'full' ? -2 : -1));
    const [first, x] = inputs;
    const narrow = !left ? first : x ? multiply(first, left) : multiply(left, first, true);
    const other = x ?? narrow;
    const narrower = right ? multiply(other, right, false, true) : other;
    return [cast(x ? multiply(narrow, narrower, true) : narrower)];
  });
};

/** An update of the moments in the projected space by a projected gradient, and of the weight by them. */
const projectedStep = (sides: Sides, dtype: ComputeDtype) => {
  const multiply = multiplyIn[dtype];
  return computedUpdate(
    `galore_${sides}`,
    ['beta1', 'fresh1', 'beta2', 'fresh2', 'eps', 'scaledStep', 'decay'],
    (weight, gradient, [m, v, ...projections], { beta1, fresh1, beta2, fresh2, eps, scaledStep, decay }) => {
      const [left, right] = sidesIn(sides, projections);
      const newM = tf.add(tf.mul(m, beta1), tf.mul(gradient, fresh1));
      const newV = tf.add(tf.mul(v, beta2), tf.mul(tf.square(gradient), fresh2));
      const normalised = tf.mul(tf.div(newM, tf.add(tf.sqrt(newV), eps)), scaledStep);
      const wide = left ? multiply(left, normalised) : normalised;
      const moved = tf.sub(weight, cast(right ? multiply(wide, right) : wide));
      return [tf.sub(moved, tf.mul(moved, decay)), newM, newV];
    },
  );
};

const forSides = <T>(make: (sides: Sides) => T): Record<Sides, T> => ({
  left: make('left'),
  right: make('right'),
  full: make('full'),
});
const inDtypes = <T>(make: (sides: Sides, dtype: ComputeDtype) => T): Record<ComputeDtype, Record<Sides, T>> => ({
  float32: forSides((sides) => make(sides, 'float32')),
  bfloat16: forSides((sides) => make(sides, 'bfloat16')),
});
const projectionsIn = inDtypes(projectionIn);
const steps = inDtypes<ComputedUpdate>(projectedStep);
