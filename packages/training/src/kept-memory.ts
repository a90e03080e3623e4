import { linearShapes, type Stage, type StagedModel } from '@blockwise/model-zoo';
import { elementCount, totalBytes } from '@blockwise/tensorflow';
import type { MicroBatch } from './micro-batch.ts';
import type { GradientsWanted } from './open-gradients.ts';

/** Bytes for products of linear layers where nothing else is said: a quarter of the weights', at least 256 MiB. */
const defaultKeptBytes = (weightBytes: number) => Math.max(256 * 2 ** 20, weightBytes / 4);

/** What a walk keeps from its forward to its backward run, and in which form. Gradients are the same bits whatever is decided here. */
export class KeptMemory {
  private readonly keptBytes: number;

  constructor(
    private readonly model: StagedModel,
    keptBytes?: number,
  ) {
    this.keptBytes = keptBytes ?? defaultKeptBytes(totalBytes(model.parameters.values()));
  }

  /**
   * The micro-batches that pass the stages together. All of them: the gradients of one stage are alive at a time, as LOMO wants it. Or one after
   * the other: one micro-batch's inputs and products are alive at a time, beside all gradients, which grow from one to the next: of BAdam's
   * block that is far less.
   */
  groupsOf(
    batches: readonly MicroBatch[],
    lowest: number,
    trained: ReadonlySet<string>,
    how: GradientsWanted,
  ): (readonly MicroBatch[])[] {
    if (how.fused || batches.length === 1) return [batches];
    const shapes = [...trained].map((name) => how.projection?.(name)?.shape ?? this.model.parameters.get(name)!.shape);
    const gradients = shapes.reduce((sum, shape) => sum + 4 * elementCount(shape), 0);
    const each = Math.max(...batches.map((batch) => this.keptBy([batch], lowest)));
    return gradients + each < this.keptBy(batches, lowest) ? batches.map((batch) => [batch]) : [batches];
  }

  /** About the bytes of what micro-batches leave for a backward run together. */
  private keptBy(batches: readonly MicroBatch[], lowest: number): number {
    const { stages } = this.model;
    const width = Math.max(...[...linearShapes(stages.at(-1)!).values()].map(([, inputs]) => inputs));
    const products = stages.slice(this.lowestKept(batches, lowest), -1);
    const each = products.reduce((sum, stage) => sum + productBytes(stage), 4 * width * (stages.length - lowest));
    return rowsOf(batches) * each;
  }

  /** The lowest stage whose products fit into keptBytes together with those of all stages above it, over all micro-batches. */
  lowestKept(batches: readonly MicroBatch[], lowest: number): number {
    const { stages } = this.model;
    const rows = rowsOf(batches);
    let left = this.keptBytes;
    let index = stages.length - 1;
    while (index > Math.max(lowest, 1) && (left -= rows * productBytes(stages[index - 1])) >= 0) index--;
    return index;
  }
}

export const rowsOf = (batches: readonly MicroBatch[]) => batches.reduce((sum, { ids }) => sum + ids.size, 0);

/** Bytes per row of the outputs of a stage's linear layers together; the last one's is not kept. */
function productBytes(stage: Stage): number {
  const widths = [...linearShapes(stage).values()].map(([outputs]) => outputs);
  return (stage.operandBytes ?? 4) * widths.slice(0, -1).reduce((sum, width) => sum + width, 0);
}

/** A stage's trained weights that linear layers multiply by. */
export function trainedLinears(stage: Stage, trained: ReadonlySet<string>) {
  const all = [...linearShapes(stage)].map(([local, [outputs, inputs]]) => {
    return { name: stage.parameters.get(`${local}.weight`)?.name ?? '', outputs, inputs };
  });
  return all.filter(({ name }) => trained.has(name));
}

/** Whether the factors of the trained linear weights' gradients, over all rows of a step, take less memory than the gradients. */
export function smallerAsFactors(stage: Stage, trained: ReadonlySet<string>, rows: number): boolean {
  let [factors, gradients] = [0, 0];
  for (const { outputs, inputs } of trainedLinears(stage, trained)) {
    factors += (stage.operandBytes ?? 4) * rows * (inputs + outputs);
    gradients += 4 * inputs * outputs;
  }
  return factors < gradients;
}
