import { cast, compile, initTensorFlow, liveTensors, tf } from '@blockwise/tensorflow';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { callStage, stageInputs } from './stage-call.ts';
import type { BatchLayout, Context, Stage, StagedModel, StageWeights } from './stages.ts';
import { noise } from './tiny-llama.test-support.ts';

/**
 * For tests only: what training, evaluation and generation rely on in every staged model. Call it at the top of a model's test file, once
 * for each configuration whose code differs.
 */
export interface StagedModelCase {
  /** A fresh model, with the same weights at every call, large enough to matter (standard deviation above 0.1). */
  create(): StagedModel;
  vocabularySize: number;
  hiddenSize: number;
  /** Columns of the last stage's output: the vocabulary, or the classes. */
  outputs: number;
}

/** Two examples of different length: their token ids. */
const examples = [[3, 7, 5], [9, 4, 9, 2, 6]] as const; // prettier-ignore

/** What stands in a batch: each row's tokens, positions and segments. */
interface Row {
  ids: readonly number[];
  positions: readonly number[];
  segments?: readonly number[];
}
const alone = (ids: readonly number[]): Row => ({ ids, positions: [...ids.keys()] });
const packed: Row = {
  ids: [...examples[0], ...examples[1], 1, 8],
  positions: [...examples[0].keys(), ...examples[1].keys(), 0, 1],
  segments: [1, 1, 1, 2, 2, 2, 2, 2, 0, 0],
};
/** The same two examples the other way round, behind other padding. */
const repacked: Row = {
  ids: [...examples[1], ...examples[0], 5, 5],
  positions: [...examples[1].keys(), ...examples[0].keys(), 0, 1],
  segments: [4, 4, 4, 4, 4, 7, 7, 7, 0, 0],
};

const idsOf = (rows: Row[]) => tf.tensor1d(rows.flatMap(({ ids }) => ids), 'int32'); // prettier-ignore

function layoutOf(rows: Row[]): BatchLayout {
  const segments = rows.flatMap((row) => row.segments ?? []);
  const layout = {
    batchSize: rows.length,
    length: rows[0].ids.length,
    positionIds: Int32Array.from(rows.flatMap(({ positions }) => positions)),
  };
  return segments.length > 0 ? { ...layout, segmentIds: Int32Array.from(segments) } : layout;
}

type NamedTensors = Record<string, tf.Tensor>;

/** float32 values of every parameter, by full name; inside tf.tidy. */
function floats(model: StagedModel): NamedTensors {
  return Object.fromEntries([...model.parameters].map(([name, parameter]) => [name, cast(parameter.acquire())]));
}

function weightsOf(stage: Stage, values: NamedTensors): StageWeights {
  return Object.fromEntries([...stage.parameters].map(([local, parameter]) => [local, values[parameter.name]]));
}

/** Inputs of every stage and the last one's output. */
function run(model: StagedModel, rows: Row[], values = floats(model), context = model.context(layoutOf(rows))) {
  const flow: tf.Tensor[] = [idsOf(rows)];
  for (const stage of model.stages) flow.push(stage.forward(weightsOf(stage, values), flow.at(-1)!, context));
  return { flow, output: flow.at(-1)! as tf.Tensor2D, context };
}

/** Within 2e-6 of the largest value: rows of other lengths are summed in another order, which takes 1.2e-6 on a CPU with AMX. */
function expectClose(found: tf.Tensor, expected: tf.Tensor, what: string, tolerance = 2e-6): void {
  expect([what, found.shape]).toEqual([what, expected.shape]);
  const scale = tf.max(tf.abs(expected)).dataSync()[0];
  const error = tf.max(tf.abs(tf.sub(found, expected))).dataSync()[0] / scale;
  expect([what, error <= tolerance || error]).toEqual([what, true]);
}

export function stagedModelContract(name: string, { create, hiddenSize, outputs, vocabularySize }: StagedModelCase) {
  describe(`the contract of staged models: ${name}`, () => {
    let before: number;
    let model: StagedModel;
    beforeAll(() => initTensorFlow());
    beforeEach(() => {
      before = liveTensors();
      model = create();
    });
    afterEach(() => {
      model.dispose();
      expect(liveTensors()).toBe(before);
    });

    it('has every parameter in a stage and no other, each under its own name', () => {
      const inStages = model.stages.flatMap((stage) => [...stage.parameters.values()]);
      expect(new Set(inStages)).toEqual(new Set(model.parameters.values()));
      expect([...model.parameters.values()].map((parameter) => parameter.name)).toEqual([...model.parameters.keys()]);
      const stageNames = model.stages.map((stage) => stage.name);
      expect(new Set(stageNames).size).toBe(stageNames.length);
    });

    it('shares names, order and shapes of weights, and the function, between stages of one kind', () => {
      tf.tidy(() => {
        const values = floats(model);
        const { flow, context } = run(model, [packed], values);
        const kinds = new Map(model.stages.map((stage) => [stage.kind, stage]));
        expect(kinds.size).toBeLessThan(model.stages.length); // otherwise nothing is compared here
        for (const [i, stage] of model.stages.entries()) {
          const shapes = ({ parameters }: Stage) => [...parameters].map(([local, { shape }]) => [local, ...shape]);
          const representative = kinds.get(stage.kind)!;
          expect(shapes(stage)).toEqual(shapes(representative));
          const swapped = representative.forward(weightsOf(stage, values), flow[i], context);
          expectClose(swapped, flow[i + 1], stage.name, 0);
        }
      });
    });

    it('passes [N, H] from stage to stage and gives one row of outputs for each token', () => {
      tf.tidy(() => {
        expect(Math.max(...packed.ids)).toBeLessThan(vocabularySize);
        const { flow } = run(model, [packed, repacked]);
        const rows = 2 * packed.ids.length;
        const shapes = flow.slice(1).map(({ shape }) => shape);
        expect(shapes).toEqual([...model.stages.slice(1).map(() => [rows, hiddenSize]), [rows, outputs]]);
      });
    });

    it('has a last stage that works on each row alone', () => {
      tf.tidy(() => {
        const values = floats(model);
        const { flow, output, context } = run(model, [packed], values);
        const chosen = tf.tensor1d([6, 0, 6], 'int32');
        const last = model.stages.at(-1)!;
        const some = last.forward(weightsOf(last, values), tf.gather(flow.at(-2)!, chosen), context);
        expectClose(some, tf.gather(output, chosen), 'rows 6, 0 and 6');
      });
    });

    it('gives packed examples what they get alone, whatever the padding and the neighbours', () => {
      tf.tidy(() => {
        const { output } = run(model, [packed, repacked]);
        const places = [[0, 15], [3, 10]]; // prettier-ignore
        examples.forEach((ids, example) => {
          const expected = run(model, [alone(ids)]).output;
          for (const at of places[example])
            expectClose(tf.slice(output, at, ids.length), expected, `example ${example} at ${at}`);
        });
      });
    });

    it('gives each row of a batch what it gets alone', () => {
      tf.tidy(() => {
        const rows = [examples[1], [...examples[1]].reverse()].map(alone);
        const { output } = run(model, rows);
        rows.forEach((row, i) => expectClose(tf.slice(output, i * 5, 5), run(model, [row]).output, `row ${i}`));
      });
    });

    it('has a gradient for every parameter, the one that finite differences give', () => {
      tf.tidy(() => {
        const values = floats(model);
        const names = Object.keys(values);
        const context = model.context(layoutOf([packed]));
        const shape: [number, number] = [packed.ids.length, outputs];
        const dy = tf.tensor2d(noise(shape[0] * shape[1], 3), shape);
        const outputOf = (...at: tf.Tensor[]) =>
          run(model, [packed], Object.fromEntries(names.map((name, i) => [name, at[i]])), context).output;
        const gradients = tf.grads(outputOf)(Object.values(values), dy);
        expect(gradients.length).toBe(model.parameters.size);
        const objective = (changed: NamedTensors) => {
          const terms = tf
            .mul(run(model, [packed], { ...values, ...changed }, context).output, dy)
            .dataSync<'float32'>();
          return terms.reduce((sum, term) => sum + term, 0); // in float64
        };
        gradients.forEach((gradient, i) => {
          // Along the gradient the slope is its length; a wrong component would make it too long.
          const length = tf.norm(gradient).dataSync()[0];
          expect([names[i], length > 1e-3]).toEqual([names[i], true]);
          const moved = (by: number) =>
            objective({ [names[i]]: tf.add(values[names[i]], tf.mul(gradient, by / length)) });
          const central = (step: number) => (moved(step) - moved(-step)) / (2 * step);
          const slope = (4 * central(0.005) - central(0.01)) / 3; // exact to the fourth order of the step
          expect([names[i], Math.abs(slope / length - 1) < 0.01 || slope / length]).toEqual([names[i], true]);
        });
      });
    });

    it('gives the same compiled as eager, forward and backward, with one compiled function for a kind', async () => {
      const compiled = new Map(model.stages.map((stage) => [stage.kind, compileStage(stage)]));
      const context = model.context(layoutOf([packed]));
      let x: tf.Tensor = idsOf([packed]);
      for (const stage of model.stages) {
        const results = await callStage(compiled.get(stage.kind)!, stage, [x, ...context]);
        tf.tidy(() => {
          const weights = weightsOf(stage, floats(model));
          const eager = forwardAndBackward(stage, weights, x, context);
          eager.forEach((expected, i) => expectClose(results[i], expected, `${stage.name}, result ${i}`, 1e-5));
        });
        const [y, ...gradients] = results;
        tf.dispose([x, ...gradients]);
        x = y;
      }
      tf.dispose([x, ...context]);
      compiled.forEach((fn) => fn.dispose());
    });

    it('hands its context over to the caller, and frees every weight, also twice', () => {
      const tensors = tf.memory().numTensors;
      const context = model.context(layoutOf([packed, repacked]));
      expect(tf.memory().numTensors).toBe(tensors + context.length);
      tf.dispose([...context]);
      model.dispose();
      expect(liveTensors()).toBe(before);
    });
  });
}

/** A stage's output, and the gradients of its input (but token ids) and weights when the output itself comes from above. */
function forwardAndBackward(stage: Stage, weights: StageWeights, x: tf.Tensor, context: Context): tf.Tensor[] {
  const names = Object.keys(weights);
  const y = stage.forward(weights, x, context);
  const differentiated = x.dtype === 'int32' ? Object.values(weights) : [...Object.values(weights), x];
  const forward = (...at: tf.Tensor[]) => {
    const own = Object.fromEntries(names.map((name, i) => [name, at[i]]));
    return stage.forward(own, at[names.length] ?? x, context);
  };
  return [y, ...tf.grads(forward)(differentiated, y)];
}

function compileStage(stage: Stage) {
  return compile(`contract_${stage.kind}`, (...inputs) => {
    const { weights, rest } = stageInputs(stage, inputs);
    return forwardAndBackward(stage, weights, rest[0], rest.slice(1));
  });
}
