import { isObject, UserError } from '@blockwise/errors';
import type { AnyTensor, Parameter, Rounding } from '@blockwise/tensorflow';
import { blockOrder, blockOrderProblems, type BlockOrder, type BlockOrderOptions } from './block-order.ts';
import { roundingAt } from './hash.ts';
import type { JsonObject, Optimizer, OptimizerFactory, OptimizerState, Projection } from './optimizer.ts';
import { roundingProblems, storageProblems } from './option-checks.ts';
import { byName } from './parameter-optimizer.ts';
import { draftBlocks, type Block, type PartitionOptions } from './partition.ts';
import { setupDifferences } from './setup-differences.ts';

/** The official BlockOptimizer's options, and what it lacks. */
export interface BlockOptimizerOptions extends PartitionOptions, BlockOrderOptions {
  /** K, the steps that a block is trained before the next one's turn, at least 1; default 50. See switchBlockEvery(n, B, D). */
  switchBlockEvery?: number;
  /**
   * How masters become 16-bit values when their block goes to rest; default nearest. Stochastic (bfloat16 only) keeps updates that are
   * smaller than half a unit in the last place on average; `seed` gives other random numbers at every switch and parameter.
   */
  rounding?: Rounding;
  /**
   * official: as the Python package behaves. The first block gets K - 1 steps (where K > 1); the base optimizer's default weight decay
   * overrides `noDecay` (see WeightDecayOptions); a switch drops the states of active modules too and rounds their masters, and those of a
   * block that follows itself. Default: the paper's Algorithm 1 (arXiv 2404.02827), K steps for every block; active modules keep their
   * masters and states.
   */
  compat?: 'official';
  /** What `log` is told: 0 nothing, 1 (default) each switch, 2 also the names that are trained. */
  verbose?: 0 | 1 | 2;
  /** Takes lines of text; default: nobody listens. */
  log?: (line: string) => void;
}

/** One block's turn; steps count from 1, both ends included. */
export type BlockVisit = {
  /** From 0. */
  blockEpoch: number;
  /** Its index in `blocks`. */
  block: number;
  prefixes: string[];
  firstStep: number;
  /** firstStep - 1 where no step was taken yet. */
  lastStep: number;
};

/**
 * BAdam (arXiv 2404.02827, Algorithm 1; github.com/Ledzy/BAdam): block coordinate descent around any base optimizer. One block at a time has
 * float32 masters and optimizer states; after switchBlockEvery steps it is rounded to its storage dtype, the states are dropped, and the
 * next block begins with fresh ones. All other parameters stay at rest, bit for bit.
 */
export class BlockOptimizer implements Optimizer {
  /** D blocks, in the order of their indices. */
  readonly blocks: readonly Block[];
  private readonly parameters: ReadonlyMap<string, Parameter>;
  private readonly order: BlockOrder;
  private readonly setup: JsonObject;
  private readonly every: number;
  private readonly official: boolean;
  /** Over the current block; with compat 'official' over the active modules too. */
  private inner: Optimizer;
  /** Over the active modules, for good. */
  private readonly always: Optimizer | undefined;
  private readonly activeNames: readonly string[];
  private trained!: ReadonlySet<string>;
  private visits: BlockVisit[] = [];
  private step = 0;

  /**
   * Trains `parameters` with optimizers made by `base`; those of no block and no active module stay frozen.
   * @throws UserError listing all that is wrong with the options.
   */
  constructor(
    private readonly base: OptimizerFactory,
    parameters: readonly Parameter[],
    private readonly options: BlockOptimizerOptions = {},
  ) {
    this.parameters = byName(parameters);
    const { blocks, active, problems } = draftBlocks([...this.parameters.keys()], options);
    // Of how many blocks there would be nothing can be said while the partition is wrong.
    problems.push(...blockOrderProblems(problems.length > 0 ? undefined : blocks.length, options));
    this.every = options.switchBlockEvery ?? 50;
    problems.push(
      ...ownProblems(options, this.every, this.parameters, [...blocks.flatMap(({ names }) => names), ...active]),
    );
    if (problems.length > 0) throw UserError.of("BlockOptimizer's options", problems);
    this.blocks = blocks;
    this.activeNames = active;
    this.order = blockOrder(blocks.length, options);
    this.official = options.compat === 'official';
    this.setup = setupOf(options, this.every, blocks, active);
    if (active.length > 0 && !this.official) this.always = base(this.named(active));
    this.inner = this.enter(this.nextVisit());
  }

  get trainable(): ReadonlySet<string> {
    return this.trained;
  }

  get learningRate(): number {
    return this.inner.learningRate;
  }

  set learningRate(value: number) {
    this.inner.learningRate = value;
    if (this.always) this.always.learningRate = value;
  }

  get fused(): boolean {
    return this.inner.fused ?? false;
  }

  get lossScaler() {
    return this.inner.lossScaler;
  }

  /** The block in training. */
  get currentBlock(): Block {
    return this.blocks[this.current.block];
  }

  /** Rounds over the blocks completed before the current one; 0 at first. */
  get blockEpoch(): number {
    return this.current.blockEpoch;
  }

  /** All turns so far, the current one last. A copy. */
  get history(): BlockVisit[] {
    return structuredClone(this.visits);
  }

  private get current(): BlockVisit {
    return this.visits[this.visits.length - 1];
  }

  beginStep(): void {
    this.step++;
    this.inner.beginStep();
    this.always?.beginStep();
  }

  update(name: string, gradient: AnyTensor): void {
    this.optimizerOf(name).update(name, gradient);
  }

  projection(name: string): Projection | undefined {
    return this.optimizerOf(name).projection?.(name);
  }

  private optimizerOf(name: string): Optimizer {
    return this.always?.trainable.has(name) ? this.always : this.inner;
  }

  /** Ends the step, and after K of them the block's turn. */
  endStep(): void {
    this.inner.endStep();
    this.always?.endStep();
    this.current.lastStep = this.step;
    // The official package's test, which its first block passes a step early (badam/block_optim.py, step).
    const steps = this.official ? this.step + 1 : this.step;
    if (steps % this.every === 0) this.switchBlock();
  }

  private switchBlock(): void {
    const { learningRate } = this;
    const lossScale = this.lossScaler?.state();
    const next = this.nextVisit();
    this.leave(this.official ? [] : this.blocks[next.block].names, this.options.rounding);
    this.inner = this.enter(next);
    this.learningRate = learningRate;
    this.lossScaler?.restore(lossScale);
  }

  private nextVisit(): BlockVisit {
    const visit = this.visits.length;
    const block = this.order.blockAt(visit);
    const blockEpoch = Math.floor(visit / this.order.visitsPerEpoch);
    const prefixes = [...this.blocks[block].prefixes];
    return { blockEpoch, block, prefixes, firstStep: this.step + 1, lastStep: this.step };
  }

  /** Drops the states and lets the masters go to rest, except those of `keep`. */
  private leave(keep: readonly string[], rounding?: Rounding): void {
    this.inner.dispose();
    const kept = new Set(keep);
    const names = [...this.parameters.keys()];
    names.forEach((name, i) => {
      if (!this.inner.trainable.has(name) || kept.has(name)) return;
      this.parameters.get(name)!.deactivate(roundingAt(rounding, this.visits.length, i));
    });
  }

  /** Begins a visit: masters for its block, and a new base optimizer. */
  private enter(visit: BlockVisit): Optimizer {
    this.visits.push(visit);
    const { names, prefixes } = this.blocks[visit.block];
    const parameters = this.named(this.official ? [...names, ...this.activeNames] : names);
    const inner = this.base(parameters, this.options.compat);
    inner.visit = this.visits.length;
    this.trained = new Set([...names, ...this.activeNames]);
    const { verbose = 1, log } = this.options;
    const always = this.activeNames.length > 0 ? ` and ${this.activeNames.length} always active` : '';
    if (verbose >= 1)
      log?.(
        `step ${visit.firstStep}, block-epoch ${visit.blockEpoch}: training block ${visit.block} of ${this.blocks.length} (${prefixes.join(', ')}), ${names.length} parameters${always}`,
      );
    if (verbose >= 2) for (const name of this.trained) log?.(`  ${name}`);
    return inner;
  }

  private named(names: readonly string[]): Parameter[] {
    return names.map((name) => this.parameters.get(name)!);
  }

  state(): OptimizerState {
    const inner = this.inner.state();
    const always = this.always?.state();
    return {
      scalars: {
        setup: structuredClone(this.setup),
        step: this.step,
        visits: this.history,
        inner: inner.scalars,
        always: always?.scalars ?? null,
      },
      tensors: new Map([...inner.tensors, ...(always?.tensors ?? [])]),
    };
  }

  /**
   * Takes up where state() was called: the same block in the same step of its turn, with its masters and states.
   * @throws UserError where the state was made with other blocks or another order, or does not fit; the optimizer is of no use then.
   */
  restore({ scalars, tensors }: OptimizerState): void {
    const problems = setupDifferences('BlockOptimizer', scalars.setup, this.setup);
    const visits = scalars.visits as unknown;
    if (!Number.isSafeInteger(scalars.step)) problems.push(`step is ${JSON.stringify(scalars.step)}, not an integer`);
    if (!Array.isArray(visits) || !this.isVisit(visits.at(-1))) problems.push('it has no history of blocks');
    if (!isObject(scalars.inner)) problems.push('it has no state of the base optimizer');
    if (this.always && !isObject(scalars.always)) problems.push('it has no state of the active modules');
    if (problems.length > 0) throw UserError.of('the checkpoint does not continue this run', problems);
    const all = structuredClone(visits as BlockVisit[]);
    const last = all.pop()!;
    // What was active until now has its weights as they were loaded: rounding to nearest gives the stored ones back.
    this.leave(this.blocks[last.block].names);
    this.step = scalars.step as number;
    this.visits = all;
    this.inner = this.enter(last);
    this.inner.restore({ scalars: scalars.inner as JsonObject, tensors });
    this.always?.restore({ scalars: scalars.always as JsonObject, tensors });
  }

  private isVisit(value: unknown): boolean {
    return isObject(value) && Number.isInteger(value.block) && this.blocks[value.block as number] !== undefined;
  }

  memory(): { masters: number; states: number } {
    const inner = this.inner.memory();
    const always = this.always?.memory() ?? { masters: 0, states: 0 };
    return { masters: inner.masters + always.masters, states: inner.states + always.states };
  }

  dispose(): void {
    this.inner.dispose();
    this.always?.dispose();
  }
}

/** What is wrong with the options that neither the partition nor the order checks. */
function ownProblems(
  { rounding, compat }: BlockOptimizerOptions,
  switchBlockEvery: number,
  parameters: ReadonlyMap<string, Parameter>,
  trained: readonly string[],
): string[] {
  const problems: string[] = [];
  if (!Number.isSafeInteger(switchBlockEvery) || switchBlockEvery < 1)
    problems.push(
      `switchBlockEvery is ${switchBlockEvery}, expected an integer of at least 1; switchBlockEvery(n, B, D) gives the paper's choice`,
    );
  if (compat !== undefined && compat !== 'official') problems.push(`compat is ${compat}, expected official or nothing`);
  const ofBlocks = trained.map((name) => parameters.get(name)!);
  problems.push(...storageProblems(ofBlocks), ...roundingProblems(rounding, ofBlocks));
  return problems;
}

/** What has to be equal for a run to be continued. */
function setupOf(options: BlockOptimizerOptions, every: number, blocks: readonly Block[], active: readonly string[]) {
  const { switchMode = 'random', startBlock = null, seed = 0, order = null, compat = null } = options;
  const setup = {
    switchBlockEvery: every,
    ...{ switchMode, startBlock, seed, order, compat },
    rounding: options.rounding ?? { mode: 'nearest' },
    blocks: blocks.map(({ names }) => names),
    activeModules: active,
  };
  return JSON.parse(JSON.stringify(setup)) as JsonObject;
}
