import { UserError } from '@blockwise/errors';
import type { Stage, StagedModel } from '@blockwise/model-zoo';
import { byteLengthOf, concatRows, tf, type AnyTensor, type Parameter } from '@blockwise/tensorflow';
import { headPieces, rowsPerPiece, scatterRows } from './head-pieces.ts';
import { KeptMemory, rowsOf, smallerAsFactors, trainedLinears } from './kept-memory.ts';
import type { MicroBatch } from './micro-batch.ts';
import { OpenGradients, type Gradient, type GradientsWanted } from './open-gradients.ts';
import { StageFunctions, type Operands } from './stage-functions.ts';

/** What one micro-batch's forward run left for its backward run; undefined below the lowest trained stage. */
interface Pass {
  readonly batch: MicroBatch;
  /** inputs[i]: what stage i was given; the head's is the last. */
  readonly inputs: (tf.Tensor | undefined)[];
  /** products[i]: the products of stage i's linear layers, where they are kept. */
  readonly products: AnyTensor[][];
  /** The gradient by the output of the stage in hand. */
  dy?: tf.Tensor;
}

/** What is the same for all backward runs of a step. */
interface Step {
  readonly lowest: number;
  readonly trained: ReadonlySet<string>;
  readonly how: GradientsWanted;
  /** Of all micro-batches, as rows. */
  readonly labels: number;
  readonly rows: number;
  readonly open: OpenGradients;
}

/** Frees what a pass still holds; the ids belong to its batch. */
function disposePass({ inputs, products, dy }: Pass): void {
  [...inputs.slice(1), ...products.flat(), dy].forEach((x) => x?.dispose());
}

const disposeOperands = (operands: Operands) => operands.forEach((operand) => operand.dispose());

/** Seconds spent in each half of a step. */
export interface WalkTiming {
  forward: number;
  backward: number;
}

/** A float32 copy of the head's weights is made for all pieces up to this size; a larger one is made in each, part by part. */
const maximumHeadCopy = 128 * 2 ** 20;

/** How a StageWalk trades memory for time. */
export interface StageWalkOptions {
  /**
   * Bytes that may hold the products of linear layers from the forward to the backward run of a step, topmost stages first. A stage whose
   * products are kept repeats only its cheap operations in the backward run; 0 repeats everything (gradient checkpointing as in BAdam's
   * paper, appendix B). Default: a quarter of the weights' bytes, at least 256 MiB. The gradients are the same bits either way.
   */
  keptBytes?: number;
}

/**
 * Walks a model's stages: forward keeps each stage's input; backward goes from the top, runs each stage again, and stops at the lowest
 * stage with a trained weight (BAdam, arXiv 2404.02827, section 2.2: no gradient is computed that no update needs). Several micro-batches
 * pass a stage together before the walk moves down, or the stages one after the other, whichever takes less memory (see KeptMemory).
 */
export class StageWalk {
  private readonly functions = new StageFunctions();
  readonly timing: WalkTiming = { forward: 0, backward: 0 };
  /** The most bytes that what is kept for the backward run took together. */
  activationBytes = 0;
  private readonly kept: KeptMemory;

  constructor(
    private readonly model: StagedModel,
    { keptBytes }: StageWalkOptions = {},
  ) {
    this.kept = new KeptMemory(model, keptBytes);
  }

  get compilation() {
    return this.functions.compilation();
  }

  /** The sum of the cross-entropy, in nats, over a batch's labels, and their number; no gradients. */
  async lossSum(batch: MicroBatch): Promise<{ sum: number; labels: number }> {
    const head = this.model.stages.length - 1;
    const pass = await this.forward(batch, head, head);
    const stage = this.model.stages[head];
    const operands = await this.operandsOf(stage, [batch]);
    try {
      let sum = 0;
      for (const { rows, targets, weights } of headPieces(stage, batch, pass.inputs[head]!, 1)) {
        const loss = await this.functions.loss(stage, operands, rows, targets, weights);
        sum += (await loss.data())[0];
        tf.dispose([loss, rows, targets, weights]);
      }
      return { sum, labels: batch.targets.length };
    } finally {
      disposeOperands(operands);
      disposePass(pass);
    }
  }

  /**
   * One step's loss and gradients over micro-batches: mean cross-entropy over all their labels. Hands each gradient to `receive` as soon as
   * it is complete, from the head down.
   * @param trained names of the parameters whose gradients are wanted
   * @param how the optimizer that receives them, where it wants them in its own way
   * @returns the loss in nats, before any update
   * @throws UserError where there is no label, or the loss is not finite
   */
  async gradients(
    batches: readonly MicroBatch[],
    trained: ReadonlySet<string>,
    receive: (gradient: Gradient) => void | Promise<void>,
    how: GradientsWanted = {},
  ): Promise<number> {
    const lowest = this.model.stages.findIndex((stage) => localNames(stage, trained).length > 0);
    if (lowest < 0) throw new Error('internal: no stage has a trained parameter');
    const labels = batches.reduce((sum, { targets }) => sum + targets.length, 0);
    if (labels === 0) throw new UserError('the batch has no label to predict: leave such examples out of the data');
    const rows = rowsOf(batches);
    const open = new OpenGradients((name) => how.projection?.(name));
    const step: Step = { lowest, trained, how, labels, rows, open };
    const passes: Pass[] = [];
    let loss = 0;
    try {
      const groups = this.kept.groupsOf(batches, lowest, trained, how);
      for (const group of groups) {
        const begin = performance.now();
        const keepFrom = this.kept.lowestKept(group, lowest);
        for (const batch of group) passes.push(await this.forward(batch, lowest, keepFrom));
        const middle = performance.now();
        const all = passes.flatMap(({ inputs, products }) => [...inputs, ...products.flat()]);
        const kept = all.reduce((sum, x) => sum + (x ? byteLengthOf(x) : 0), 0);
        this.activationBytes = Math.max(this.activationBytes, kept);
        const isLast = group === groups.at(-1);
        loss += await this.backward(passes, step, isLast ? receive : undefined);
        passes.length = 0;
        this.timing.forward += (middle - begin) / 1000;
        this.timing.backward += (performance.now() - middle) / 1000;
      }
      return loss;
    } finally {
      // Nothing is left of a run that came to its end.
      open.dispose();
      passes.forEach(disposePass);
    }
  }

  /**
   * From the head down to the lowest trained stage. Returns the loss.
   * @param receive gets the gradients that are complete with this run
   */
  private async backward(
    passes: readonly Pass[],
    step: Step,
    receive?: (gradient: Gradient) => void | Promise<void>,
  ): Promise<number> {
    const { stages } = this.model;
    const { lowest, trained, how, rows, open } = step;
    const batches = passes.map(({ batch }) => batch);
    let loss = 0;
    for (let index = stages.length - 1; index >= lowest; index--) {
      const stage = stages[index];
      const areProjected = trainedLinears(stage, trained).some(({ name }) => how.projection?.(name));
      const factored = how.fused || areProjected || smallerAsFactors(stage, trained, rows);
      const isHead = index === stages.length - 1;
      const operands = await this.operandsOf(stage, batches);
      try {
        for (const pass of passes) {
          if (isHead) loss += await this.headGradients(pass, operands, step);
          else await this.stageGradients(index, pass, operands, step, factored);
          if (index > 0) pass.inputs[index]!.dispose();
          pass.products[index]?.forEach((product) => product.dispose());
        }
      } finally {
        disposeOperands(operands);
      }
      if (!Number.isFinite(loss)) throw new UserError(notFinite(loss));
      if (receive) for (const gradient of open.take(namesBelow(stages, index))) await receive(gradient);
    }
    return loss;
  }

  /** Runs all stages but the head, keeping the inputs of stages from `lowest` up and the products of those from `keepFrom` up. */
  private async forward(batch: MicroBatch, lowest: number, keepFrom: number): Promise<Pass> {
    const { stages } = this.model;
    const inputs: (tf.Tensor | undefined)[] = [];
    const products: AnyTensor[][] = [];
    let x: tf.Tensor = batch.ids;
    for (let i = 0; i < stages.length - 1; i++) {
      inputs.push(i >= lowest ? x : undefined);
      const operands = await this.operandsOf(stages[i], [batch]);
      const result = await this.functions.forward(stages[i], x, batch.context, operands, i >= keepFrom);
      disposeOperands(operands);
      products.push(result.products);
      if (i > 0 && i < lowest) x.dispose();
      x = result.y;
    }
    inputs.push(x);
    return { batch, inputs, products };
  }

  private async stageGradients(
    index: number,
    pass: Pass,
    operands: Operands,
    { lowest, trained, open }: Step,
    factored: boolean,
  ): Promise<void> {
    const stage = this.model.stages[index];
    const names = localNames(stage, trained);
    const { batch, inputs, products, dy } = pass;
    const run = [stage, inputs[index]!, dy!, batch.context, operands] as const;
    const { dx, gradients } = await this.functions.backward(...run, names, index > lowest, products[index], factored);
    dy!.dispose();
    pass.dy = dx;
    names.forEach((name, i) => open.add(stage.parameters.get(name)!, gradients[i]));
  }

  /** The head's loss and gradients over the predicting rows only, a piece at a time. Returns the loss. */
  private async headGradients(
    pass: Pass,
    operands: Operands,
    { lowest, trained, labels, open }: Step,
  ): Promise<number> {
    const { batch, inputs } = pass;
    const index = this.model.stages.length - 1;
    const stage = this.model.stages[index];
    const inputGradient = index > lowest;
    const hidden = inputs.at(-1)!;
    const names = localNames(stage, trained);
    // Pieces in float32 are summed; as factors they are one product, in the end.
    const factored = smallerAsFactors(stage, trained, batch.rows.length);
    const factors = new Map<Parameter, [dy: AnyTensor, x: AnyTensor][]>();
    const dRows: tf.Tensor[] = [];
    let loss = 0;
    for (const { rows, targets, weights } of headPieces(stage, batch, hidden, 1 / labels)) {
      const given = [rows, targets, weights] as const;
      const result = await this.functions.lossAndGradients(stage, operands, ...given, names, inputGradient, factored);
      loss += (await result.loss.data())[0];
      names.forEach((local, i) => {
        const parameter = stage.parameters.get(local)!;
        const [first, second] = result.gradients[i];
        if (second) factors.set(parameter, [...(factors.get(parameter) ?? []), [first, second]]);
        else open.add(parameter, [first]);
      });
      if (result.dRows) dRows.push(result.dRows);
      tf.dispose([...given, result.loss]);
    }
    for (const [parameter, pieces] of factors) open.add(parameter, [concatRows(pieces.map(([dy]) => dy)), concatRows(pieces.map(([, x]) => x))]); // prettier-ignore
    if (inputGradient) pass.dy = scatterRows(dRows, batch.rows, hidden);
    return loss;
  }

  /**
   * What a stage multiplies in place of its weights, for all of some batches. Of a head in float32 that is one copy of 16-bit weights where
   * several pieces share a small one. (A linear layer of the stage's own knows best what to make of them.)
   */
  private operandsOf(stage: Stage, batches: readonly MicroBatch[]): Promise<Operands> {
    const isHead = stage === this.model.stages.at(-1);
    const rows = batches.reduce((sum, { rows }) => sum + rows.length, 0);
    const bytes = [...stage.parameters.values()].reduce((sum, { elements }) => sum + 4 * elements, 0);
    const areShared = isHead && rows > rowsPerPiece(stage) && bytes <= maximumHeadCopy && !stage.linear;
    return areShared ? this.functions.floats(stage) : this.functions.operands(stage);
  }

  dispose(): void {
    this.functions.dispose();
  }
}

const notFinite = (loss: number) =>
  `the loss became ${loss}: training stopped before an update was made with it. Begin again with a lower learning_rate or max_grad_norm, or more warm-up`;

/** Names inside the stage of its trained weights. */
function localNames(stage: Stage, trained: ReadonlySet<string>): string[] {
  return [...stage.parameters].filter(([, parameter]) => trained.has(parameter.name)).map(([local]) => local);
}

/** Weights of the stages below: their gradients are not complete yet. */
function namesBelow(stages: readonly Stage[], index: number): ReadonlySet<string> {
  const below = stages.slice(0, index).flatMap(({ parameters }) => [...parameters.values()]);
  return new Set(below.map(({ name }) => name));
}
