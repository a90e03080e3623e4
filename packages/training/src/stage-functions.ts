import {
  callStage,
  gradientTerms,
  linearShapes,
  recordProducts,
  replaceWeights,
  replayProducts,
  stageInputs,
  type Context,
  type GradientTerm,
  type Stage,
  type StageWeights,
  type WeightCopies,
} from '@blockwise/model-zoo';
import {
  compile,
  sparseSoftmaxCrossEntropy,
  tf,
  toRaw,
  type AnyTensor,
  type CompiledFunction,
} from '@blockwise/tensorflow';

/** What a stage multiplies in place of its weights: see StageFunctions.operands(). */
export type Operands = WeightCopies;

/**
 * What a walk asks of a stage, each compiled once per kind of stage, set of trained weights and shape of the batch, and shared by all stages
 * of the kind: weights are inputs. Weights at rest in 16 bit are cast inside, where they are used.
 */
export class StageFunctions {
  private readonly compiled = new Map<string, CompiledFunction<AnyTensor[]>>();
  /** Of each backward function: how many tensors stand for each gradient. */
  private readonly termSizes = new Map<string, number[]>();

  /**
   * The stage's float32 weights that its linear modules multiply in bfloat16, rounded to that once for several calls; of most stages none. The
   * caller disposes them.
   */
  async operands(stage: Stage): Promise<Operands> {
    const rounded = roundedWeights(stage);
    if (rounded.length === 0) return new Map();
    const fn = this.function<AnyTensor[]>(`operands ${stage.kind} ${rounded}`, (...inputs) => {
      const { weights } = stageInputs(stage, inputs);
      return rounded.map((name) => toRaw(weights[name], 'bfloat16'));
    });
    const copies = await callStage(fn, stage, []);
    return new Map(rounded.map((name, i) => [name, copies[i]]));
  }

  /**
   * y = stage(x). With `keep` also the products of its linear layers, for backward(). Borrows x, context and operands.
   */
  async forward(
    stage: Stage,
    x: tf.Tensor,
    context: Context,
    operands: Operands,
    keep: boolean,
  ): Promise<{ y: tf.Tensor; products: AnyTensor[] }> {
    const fn = this.function<[y: tf.Tensor, ...products: AnyTensor[]]>(`forward ${stage.kind} ${keep}`, (...inputs) => {
      const { weights, rest } = stageInputs(stage, inputs);
      const [x, ...context] = rest;
      if (!keep) return [stage.forward(weights, x, context)];
      const { value, products } = recordProducts(() => stage.forward(weights, x, context));
      return [value, ...products];
    });
    const [y, ...products] = await callStage(fn, stage, [x, ...context], operands);
    return { y, products };
  }

  /**
   * Runs the stage again (of the linear layers only what `products` lacks) and returns the vector-Jacobian products of dy: for its input
   * where asked, and for the weights named in `trained` (names inside the stage). Nothing else is computed. With `factored`, gradients of
   * linear layers' weights come as their factors. Borrows all.
   */
  async backward(
    stage: Stage,
    x: tf.Tensor,
    dy: tf.Tensor,
    context: Context,
    operands: Operands,
    trained: readonly string[],
    inputGradient: boolean,
    products: readonly AnyTensor[],
    factored: boolean,
  ): Promise<{ dx: tf.Tensor | undefined; gradients: GradientTerm[] }> {
    const name = `backward ${stage.kind} ${inputGradient} ${trained} ${products.length} ${factored}`;
    const fn = this.function<AnyTensor[]>(name, (...inputs) => {
      const { weights, rest } = stageInputs(stage, inputs);
      const [x, dy] = rest;
      const context = rest.slice(2, rest.length - products.length);
      const kept: AnyTensor[] = rest.slice(rest.length - products.length);
      const run = (w: StageWeights, x: tf.Tensor) => replayProducts(kept, () => stage.forward(w, x, context));
      const { byInput, terms } = gradients(weights, trained, x, inputGradient, factored, run, dy);
      return [...byInput, ...this.flat(name, terms)];
    });
    const results = await callStage(fn, stage, [x, dy, ...context, ...products], operands);
    const dx = inputGradient ? (results.shift() as tf.Tensor) : undefined;
    return { dx, gradients: this.termsOf(name, results) };
  }

  /** Terms as the outputs of a function. */
  private flat(name: string, terms: readonly GradientTerm[]): AnyTensor[] {
    this.termSizes.set(name, terms.map(({ length }) => length)); // prettier-ignore
    return terms.flat();
  }

  private termsOf(name: string, outputs: AnyTensor[]): GradientTerm[] {
    return this.termSizes.get(name)!.map((size) => outputs.splice(0, size) as unknown as GradientTerm);
  }

  /** All of the stage's weights in float32; the caller disposes them. */
  async floats(stage: Stage): Promise<Operands> {
    const fn = this.function(`floats ${stage.kind}`, (...inputs) => Object.values(stageInputs(stage, inputs).weights));
    const values = await callStage(fn, stage, []);
    return new Map([...stage.parameters.keys()].map((name, i) => [name, values[i]]));
  }

  /**
   * Cross-entropy of the head's rows, each weighted, summed: float32 scalar.
   * @param rows float32 [R, H]
   * @param targets int32 [R]
   * @param rowWeights float32 [R]; 0 for rows that only fill up
   */
  async loss(
    stage: Stage,
    operands: Operands,
    rows: tf.Tensor,
    targets: tf.Tensor,
    rowWeights: tf.Tensor,
  ): Promise<tf.Tensor> {
    const fn = this.function(`loss ${stage.kind}`, (...inputs) => {
      const { weights, rest } = stageInputs(stage, inputs);
      const [rows, targets, rowWeights] = rest;
      return [weightedLoss(targets, rowWeights)(stage.forward(weights, rows, []))];
    });
    const [loss] = await callStage(fn, stage, [rows, targets, rowWeights], operands);
    return loss;
  }

  /** loss() with its gradients: by the rows where asked, and by the weights named in `trained`, with `factored` as backward() has them. */
  async lossAndGradients(
    stage: Stage,
    operands: Operands,
    rows: tf.Tensor,
    targets: tf.Tensor,
    rowWeights: tf.Tensor,
    trained: readonly string[],
    inputGradient: boolean,
    factored: boolean,
  ): Promise<{ loss: tf.Tensor; dRows: tf.Tensor | undefined; gradients: GradientTerm[] }> {
    const name = `lossAndGradients ${stage.kind} ${inputGradient} ${trained} ${factored}`;
    const fn = this.function<AnyTensor[]>(name, (...inputs) => {
      const { weights, rest } = stageInputs(stage, inputs);
      const [rows, targets, rowWeights] = rest;
      const lossOf = (w: StageWeights, rows: tf.Tensor) =>
        weightedLoss(targets, rowWeights)(stage.forward(w, rows, []));
      const { value, byInput, terms } = gradients(weights, trained, rows, inputGradient, factored, lossOf);
      return [value, ...byInput, ...this.flat(name, terms)];
    });
    const results = await callStage(fn, stage, [rows, targets, rowWeights], operands);
    const loss = results.shift() as tf.Tensor;
    const dRows = inputGradient ? (results.shift() as tf.Tensor) : undefined;
    return { loss, dRows, gradients: this.termsOf(name, results) };
  }

  private function<Outputs extends AnyTensor[] = tf.Tensor[]>(
    name: string,
    body: (...inputs: AnyTensor[]) => Outputs,
  ): CompiledFunction<Outputs> {
    let fn = this.compiled.get(name);
    if (!fn) this.compiled.set(name, (fn = compile(name.replace(/[^\w]+/g, '_'), body)));
    return fn as CompiledFunction<Outputs>;
  }

  /** Seconds spent compiling, and the variants alive. */
  compilation(): { seconds: number; variants: number } {
    const all = [...this.compiled.values()];
    return {
      seconds: all.reduce((sum, fn) => sum + fn.compileSeconds, 0),
      variants: all.reduce((sum, fn) => sum + fn.variants, 0),
    };
  }

  dispose(): void {
    for (const fn of this.compiled.values()) fn.dispose();
    this.compiled.clear();
  }
}

/** Names inside the stage of the float32 weights that its linear modules multiply in bfloat16. */
function roundedWeights(stage: Stage): string[] {
  if (stage.operandBytes !== 2) return [];
  const names = [...linearShapes(stage).keys()].map((name) => `${name}.weight`);
  return names.filter((name) => stage.parameters.get(name)?.dtype === 'float32');
}

/** f's value, and its gradients by x (where asked) and by some weights (see gradientTerms()), against dy (1 where absent). */
function gradients(
  weights: StageWeights,
  trained: readonly string[],
  x: tf.Tensor,
  inputGradient: boolean,
  factored: boolean,
  f: (weights: StageWeights, x: tf.Tensor) => tf.Tensor,
  dy?: tf.Tensor,
): { value: tf.Tensor; byInput: AnyTensor[]; terms: GradientTerm[] } {
  const by = [...(inputGradient ? [x] : []), ...trained.map((name) => weights[name])];
  const g = tf.valueAndGrads((...values) => {
    const input = inputGradient ? values.shift()! : x;
    const replaced = Object.fromEntries(trained.map((name, i) => [name, values[i]]));
    return f(replaceWeights(weights, replaced), input);
  });
  let value!: tf.Tensor;
  const terms = gradientTerms(() => {
    const found = g(by, dy);
    value = found.value;
    return found.grads;
  }, factored);
  const byInput = inputGradient ? terms.shift()! : [];
  return { value, byInput: [...byInput], terms };
}

/** Sum over rows of weight x cross-entropy; the gradient comes from the same pass over the logits. */
function weightedLoss(targets: tf.Tensor, rowWeights: tf.Tensor): (logits: tf.Tensor) => tf.Tensor {
  return tf.customGrad((...args) => {
    const [logits, save] = args as unknown as [tf.Tensor2D, tf.GradSaveFunc];
    const [losses, gradient] = sparseSoftmaxCrossEntropy(logits, targets as tf.Tensor1D);
    save([gradient]);
    return {
      value: tf.sum(tf.mul(losses, rowWeights)),
      gradFunc: (dy, saved) => tf.mul((saved as tf.Tensor[])[0], tf.expandDims(tf.mul(rowWeights, dy as tf.Tensor), 1)),
    };
  });
}
