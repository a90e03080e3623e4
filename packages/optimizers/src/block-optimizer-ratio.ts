import { UserError, didYouMean, isObject } from '@blockwise/errors';
import {
  multiplyFactors,
  Parameter,
  RawTensor,
  replaceEntries,
  takeColumns,
  takeEntries,
  takeFloat32,
  tf,
  toRaw,
  type AnyTensor,
  type Entries,
  type Rounding,
  type Stretch,
} from '@blockwise/tensorflow';
import { adamSettings, adamStates, adamStep } from './adamw.ts';
import { hash, roundingAt } from './hash.ts';
import { notIntegersFrom, roundingProblems, storageProblems } from './option-checks.ts';
import type { JsonObject, Optimizer, OptimizerFactory, OptimizerState, Projection } from './optimizer.ts';
import { byName, ParameterOptimizer, trainedParameter, type MasterOptions } from './parameter-optimizer.ts';
import { isEmbedding } from './partition.ts';
import { scatteredIndices } from './scatter-order.ts';
import { setupDifferences } from './setup-differences.ts';
import type { UpdateRule } from './update-rule.ts';

/** Every value of maskMode. */
export const maskModes = ['adjacent', 'scatter'] as const;
export type MaskMode = (typeof maskModes)[number];

/** The official BlockOptimizerRatio's options, and what it lacks. Masters are those of the masked entries. */
export interface BlockOptimizerRatioOptions extends MasterOptions {
  /** The share of each parameter's entries that is trained at a time, above 0 and at most 1; default 0.1. At least one entry is. */
  updateRatio?: number;
  /** Other ratios by parts of names; the last part that a name contains counts. Default: none. */
  paramUpdateRatios?: Readonly<Record<string, number>>;
  /** Steps with the same entries, at least 1; default 100. */
  switchEvery?: number;
  /** Parameters of fewer entries are trained whole; default 100. */
  preserveThreshold?: number;
  /** adjacent (default): a stretch of the parameter in row-major order, the next one in the next window; scatter: random entries. */
  maskMode?: MaskMode;
  /**
   * Of scattered entries. true (default): parameters of one shape share theirs, and their places (int32) are held while a window lasts;
   * false: each parameter has its own, worked out at each step.
   */
  keepMask?: boolean;
  /** Default false: frozen. */
  includeEmbedding?: boolean;
  /** Default false: frozen. A head tied to the embedding is trained where either is included. */
  includeLmHead?: boolean;
  /** Of scattered entries; default 0. */
  seed?: number;
  /** Default 1e-5, the official one. */
  learningRate?: number;
  /** As in Adam; default [0.9, 0.999]. */
  betas?: readonly [number, number];
  /** Added to the square root of the second moment as it is, before bias correction; default 1e-8. */
  eps?: number;
  /** The flat indices of the entries that are trained in a window (0, 1, ...), in place of the two modes: to repeat a recorded run. */
  masks?: (parameter: { name: string; shape: readonly number[] }, window: number) => Int32Array;
}

/**
 * BAdam's BlockOptimizerRatio (github.com/Ledzy/BAdam, src/badam/block_optim.py, version 1.4): a share of every parameter's entries follows
 * Adam (without weight decay) for switchEvery steps, a window; then the states are dropped and other entries have their turn, until all had
 * one. With k = floor(updateRatio n) of n entries, window w trains places w k to w k + k, modulo n, of the parameter (adjacent) or of a random
 * order of it (scatter). Whatever is not trained keeps its bits.
 *
 * It takes the entries of each gradient (of a linear layer's, adjacent ones are all that is ever multiplied out), runs Adam on those k numbers and puts the
 * results in a copy of the weight, which stays in its storage dtype: float32 masters and states are kept for the masked entries alone.
 */
export class BlockOptimizerRatio implements Optimizer {
  readonly trainable: ReadonlySet<string>;
  private readonly parameters: ReadonlyMap<string, Parameter>;
  private readonly adam: OptimizerFactory;
  private readonly settings: Settings;
  private readonly setup: JsonObject;
  /** What Adam trains in this window: under each parameter's name its masked entries, [k]. */
  private masked = new Map<string, Parameter>();
  private inner!: Optimizer;
  /** The places of scattered entries in this window, by what determines them. */
  private readonly places = new Map<string, tf.Tensor1D>();
  private step = 0;

  /**
   * Trains `parameters`, embedding and head only where included; those it trains go to rest.
   * @throws UserError listing all that is wrong with the options.
   */
  constructor(parameters: readonly Parameter[], options: BlockOptimizerRatioOptions = {}) {
    this.settings = withDefaults(options);
    const { learningRate = 1e-5, betas, eps } = options;
    const problems = ratioProblems(this.settings, parameters);
    const adam = adamSettings('BlockOptimizerRatio', { learningRate, betas, eps }, 0, {}, problems);
    const step = adamStep(adam.betas, adam.eps, 'hat');
    const rule: UpdateRule = {
      learningRate,
      states: () => adamStates,
      apply: (update) => step(update, update.gradient),
    };
    this.adam = (masked) => new ParameterOptimizer(masked, rule, options);
    const all = byName(parameters);
    this.parameters = byName(parameters.filter(({ name }) => isIncluded(name, all, this.settings)));
    this.trainable = new Set(this.parameters.keys());
    this.setup = setupOf(this.settings, [...this.trainable]);
    for (const parameter of this.parameters.values()) parameter.deactivate();
    this.enterWindow();
  }

  get learningRate(): number {
    return this.inner.learningRate;
  }

  set learningRate(value: number) {
    this.inner.learningRate = value;
  }

  private get window(): number {
    return Math.floor(this.step / this.settings.switchEvery);
  }

  beginStep(): void {
    this.inner.beginStep();
  }

  update(name: string, gradient: AnyTensor): void {
    const projection = this.projection(name);
    const parameter = trainedParameter(this.parameters, name, gradient, projection);
    const isTaken = projection?.shape.length === gradient.shape.length;
    this.withEntries(parameter, (entries) => {
      const taken = isTaken ? gradient : takeEntries(gradient, entries);
      this.inner.update(name, taken);
      if (!isTaken) taken.dispose();
      this.writeBack(parameter, entries);
    });
  }

  /** The masked entries of a matrix, where they are adjacent and lie in some of its rows. */
  projection(name: string): Projection | undefined {
    const parameter = this.parameters.get(name);
    const entries = parameter?.shape.length === 2 ? this.adjacentEntries(parameter) : undefined;
    if (!entries) return undefined;
    const [rows, columns] = parameter!.shape;
    const from = Math.floor(entries.from / columns);
    const held = { from, count: Math.ceil((entries.from + entries.count) / columns) - from };
    if (held.count >= rows) return undefined;
    const withinHeld = { from: entries.from - from * columns, count: entries.count };
    const of = (gradientOrDy: AnyTensor, x?: AnyTensor) => {
      if (!x) return float32Entries(gradientOrDy, entries);
      const product = rowsOfProduct(gradientOrDy, x, held);
      const taken = float32Entries(product, withinHeld);
      product.dispose();
      return taken;
    };
    return { shape: [entries.count], of };
  }

  /** Puts the masked entries, as they are now, into the weight at rest. */
  private writeBack(parameter: Parameter, entries: Entries): void {
    const masked = this.masked.get(parameter.name)!;
    const values = masked.acquire();
    const stored =
      values instanceof RawTensor ? values : toRaw(values, parameter.storageDtype, this.roundingOf(parameter));
    const weight = parameter.acquire() as RawTensor;
    const updated = replaceEntries(weight, entries, stored);
    if (stored !== values) stored.dispose();
    masked.release(values);
    parameter.replace(updated);
  }

  private roundingOf({ name }: Parameter): Rounding | undefined {
    return roundingAt(this.settings.rounding, [...this.trainable].indexOf(name), this.step);
  }

  /** Ends the step, and after switchEvery of them the window. */
  endStep(): void {
    this.inner.endStep();
    this.step++;
    if (this.step % this.settings.switchEvery !== 0) return;
    const { learningRate } = this;
    this.leaveWindow();
    this.enterWindow();
    this.learningRate = learningRate;
  }

  private enterWindow(): void {
    for (const [name, parameter] of this.parameters)
      this.withEntries(parameter, (entries) => {
        const values = takeEntries(parameter.acquire() as RawTensor, entries);
        this.masked.set(name, new Parameter(name, values));
      });
    this.inner = this.adam([...this.masked.values()]);
    this.inner.visit = this.window;
  }

  private leaveWindow(): void {
    this.inner.dispose();
    for (const parameter of this.masked.values()) parameter.dispose();
    this.masked.clear();
    for (const places of this.places.values()) places.dispose();
    this.places.clear();
  }

  /** Which places of the parameter, or of a random order of it, have their turn in this window. */
  private turnOf(parameter: Parameter): Stretch {
    const count = entryCount(parameter, this.settings);
    return { from: count === parameter.elements ? 0 : (this.window * count) % parameter.elements, count };
  }

  /** The entries that the parameter trains in this window, where they are adjacent. */
  private adjacentEntries(parameter: Parameter): Stretch | undefined {
    const { maskMode, masks } = this.settings;
    const turn = this.turnOf(parameter);
    const areAdjacent = !masks && (maskMode === 'adjacent' || turn.count === parameter.elements);
    return areAdjacent ? turn : undefined;
  }

  /** Runs `body` with the entries that the parameter trains in this window. */
  private withEntries(parameter: Parameter, body: (entries: Entries) => void): void {
    const { name, shape, elements } = parameter;
    const { keepMask, masks, seed } = this.settings;
    const adjacent = this.adjacentEntries(parameter);
    if (adjacent) return body(adjacent);
    const { from, count } = this.turnOf(parameter);
    const own = [...this.trainable].indexOf(name);
    const key = masks || !keepMask ? name : `${shape}, ${count}`;
    const order = keepMask ? hash(seed, ...shape) : hash(seed, own, elements);
    const indices =
      this.places.get(key) ??
      tf.keep(
        tf.tensor1d(
          masks ? masks({ name, shape }, this.window) : scatteredIndices(elements, from, count, order),
          'int32',
        ),
      );
    if (keepMask) this.places.set(key, indices);
    body({ indices });
    if (!keepMask) indices.dispose();
  }

  state(): OptimizerState {
    const { scalars, tensors } = this.inner.state();
    return { scalars: { setup: structuredClone(this.setup), step: this.step, inner: scalars }, tensors };
  }

  /**
   * Takes up where state() was called: the same entries in the same step of their window, with their masters and states.
   * @throws UserError where the state was made with other options or does not fit; the optimizer is of no use then.
   */
  restore({ scalars, tensors }: OptimizerState): void {
    const problems = setupDifferences('BlockOptimizerRatio', scalars.setup, this.setup);
    const { step, inner } = scalars;
    if (!Number.isSafeInteger(step)) problems.push(`step is ${JSON.stringify(step)}, not an integer`);
    if (!isObject(inner)) problems.push('it has no state of the masked entries');
    if (problems.length > 0) throw UserError.of('the checkpoint does not continue this run', problems);
    this.step = step as number;
    this.leaveWindow();
    this.enterWindow();
    this.inner.restore({ scalars: inner as JsonObject, tensors });
  }

  memory(): { masters: number; states: number } {
    return this.inner.memory();
  }

  dispose(): void {
    this.leaveWindow();
  }
}

/** The options that the entries follow from, with their defaults. */
function withDefaults(options: BlockOptimizerRatioOptions) {
  const { updateRatio = 0.1, paramUpdateRatios = {}, switchEvery = 100, preserveThreshold = 100 } = options;
  const { maskMode = 'adjacent', keepMask = true, includeEmbedding = false, includeLmHead = false } = options;
  const { seed = 0, masters = 'kept', rounding = { mode: 'nearest' }, masks } = options;
  return {
    ...{ updateRatio, paramUpdateRatios, switchEvery, preserveThreshold, maskMode, keepMask },
    ...{ includeEmbedding, includeLmHead, seed, masters, rounding, masks },
  };
}

type Settings = ReturnType<typeof withDefaults>;

/** Some rows of dy^T x, and no others. */
function rowsOfProduct(dy: AnyTensor, x: AnyTensor, rows: Stretch): AnyTensor {
  const narrow = takeColumns(dy, rows);
  const product = multiplyFactors(narrow, x);
  narrow.dispose();
  return product;
}

function float32Entries(x: AnyTensor, entries: Entries): tf.Tensor {
  const taken = takeEntries(x, entries);
  return taken instanceof RawTensor ? takeFloat32(taken) : taken;
}

/** k, how many entries of a parameter are trained at a time. */
function entryCount(
  { name, elements }: Parameter,
  { updateRatio, paramUpdateRatios, preserveThreshold }: Settings,
): number {
  if (elements < preserveThreshold) return elements;
  const part = Object.keys(paramUpdateRatios).findLast((part) => name.includes(part));
  return Math.max(1, Math.floor(elements * (part === undefined ? updateRatio : paramUpdateRatios[part])));
}

const isHead = (name: string) => /(^|\.)lm_head\./.test(name);

function isIncluded(
  name: string,
  all: ReadonlyMap<string, Parameter>,
  { includeEmbedding, includeLmHead }: Settings,
): boolean {
  if (isHead(name)) return includeLmHead;
  if (!isEmbedding(name)) return true;
  const tied = ![...all.keys()].some(isHead);
  return includeEmbedding || (tied && includeLmHead);
}

function ratioProblems(settings: Settings, parameters: readonly Parameter[]): string[] {
  const { updateRatio, paramUpdateRatios, switchEvery, preserveThreshold, maskMode, seed } = settings;
  const problems: string[] = [];
  const ratios = Object.entries(paramUpdateRatios);
  for (const [name, ratio] of [
    ['updateRatio', updateRatio] as const,
    ...ratios.map(([part, ratio]) => [`paramUpdateRatios["${part}"]`, ratio] as const),
  ])
    if (!(ratio > 0 && ratio <= 1)) problems.push(`${name} is ${ratio}, expected a number above 0 and at most 1`);
  for (const [part] of ratios)
    if (!parameters.some(({ name }) => name.includes(part)))
      problems.push(`paramUpdateRatios: no parameter has "${part}" in its name`);
  problems.push(...notIntegersFrom(1, { switchEvery }), ...notIntegersFrom(0, { preserveThreshold, seed }));
  if (!maskModes.includes(maskMode))
    problems.push(`maskMode is ${maskMode}${didYouMean(maskMode, maskModes)}: expected ${maskModes.join(' or ')}`);
  problems.push(...storageProblems(parameters), ...roundingProblems(settings.rounding, parameters));
  return problems;
}

/** What has to be equal for a run to be continued. */
function setupOf(settings: Settings, trained: string[]): JsonObject {
  const { updateRatio, paramUpdateRatios, switchEvery, preserveThreshold, maskMode, keepMask } = settings;
  const { seed, masters, rounding } = settings;
  return {
    ...{ updateRatio, paramUpdateRatios: { ...paramUpdateRatios }, switchEvery, preserveThreshold, maskMode, keepMask },
    ...{ seed, masters, rounding: { ...rounding }, trained },
  };
}
