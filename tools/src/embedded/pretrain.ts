/**
 * Pretrains the embedded model: a Llama of half a million parameters, next-token prediction on the generated corpus, from scratch.
 * `npm run embedded:pretrain -w tools` writes datasets/embedded/model (about twenty minutes on two cores).
 *
 * The model is so small that its loss and all gradients are one compiled function; larger models go through @blockwise/training.
 */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createRandom, loadTokenizer, type Random, type Tokenizer } from '@blockwise/loaders';
import {
  createLlama,
  llama_defaults,
  llamaConfigJson,
  llamaWeightShapes,
  parameterCount,
  saveLlama,
  type Llama,
  type LlamaConfig,
} from '@blockwise/model-zoo';
import { adamW, isNormOrBias } from '@blockwise/optimizers';
import { describeEngine, elementCount, initTensorFlow, takeRaw, tf, type RawTensor } from '@blockwise/tensorflow';
import { corpusDocument } from './corpus.ts';
import { specialTokens } from './tokenizer.ts';
import { WholeModelLoss } from './whole-model-loss.ts';
import { embeddedData, embeddedFolder, writeWhole } from './write-data.ts';

/** The shape of the embedded model. */
export const embeddedConfig: LlamaConfig = {
  ...llama_defaults,
  vocab_size: embeddedData.vocabSize,
  hidden_size: 96,
  intermediate_size: 256,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 24,
  max_position_embeddings: embeddedData.modelMaxLength,
  rms_norm_eps: 1e-5,
  tie_word_embeddings: true,
  pad_token_id: 0,
  dtype: 'bfloat16',
};

/** Everything that decides a pretraining run, beside the corpus and the tokenizer. */
export interface PretrainOptions {
  seed: number;
  steps: number;
  /** Rows in a batch and tokens in a row. */
  batchSize: number;
  length: number;
  /** At its peak, after `warmupSteps`; then a cosine down to a tenth. */
  learningRate: number;
  warmupSteps: number;
  weightDecay: number;
  maxGradNorm: number;
  /** Rows of the held-out part. */
  validationRows: number;
}

export const pretrainDefaults: PretrainOptions = {
  seed: 42,
  steps: 4_500,
  batchSize: 16,
  length: 128,
  learningRate: 4e-3,
  warmupSteps: 100,
  weightDecay: 0.1,
  maxGradNorm: 1,
  validationRows: 96,
};

/** Fresh weights: normal with config.initializer_range, those that end a residual branch smaller by sqrt(2 layers) as in GPT-2; norms 1. */
export function freshWeights(config: LlamaConfig, random: Random): Map<string, RawTensor> {
  const uniform = () => (random.uint32() + 0.5) / 2 ** 32;
  const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  const weights = new Map<string, RawTensor>();
  for (const [name, shape] of llamaWeightShapes(config)) {
    const endsBranch = /\.(o_proj|down_proj)\.weight$/.test(name);
    const scale = config.initializer_range / (endsBranch ? Math.sqrt(2 * config.num_hidden_layers) : 1);
    const values = Float32Array.from({ length: elementCount(shape) }, () =>
      isNormOrBias(name) ? 1 : scale * normal(),
    );
    weights.set(name, takeRaw(tf.tensor(values, [...shape]), 'bfloat16'));
  }
  return weights;
}

/** An endless stream of rows of `length + 1` tokens: documents one after another, `<s>` before and `</s>` behind each. */
export function* tokenRows(tokenizer: Tokenizer, seed: number, length: number): Generator<Int32Array> {
  let tokens: number[] = [];
  for (let index = 0; ; index++) {
    tokens.push(...tokenizer.encode(corpusDocument(seed, index)), tokenizer.eos!.id);
    while (tokens.length > length) {
      yield Int32Array.from(tokens.slice(0, length + 1));
      tokens = tokens.slice(length);
    }
  }
}

/** What a run leaves for the model's README. */
export interface PretrainResult {
  validation: { step: number; loss: number }[];
  tokens: number;
}

/**
 * Trains `model` in place and leaves its weights at rest, in bfloat16.
 *
 * @param report told about every `every`-th step
 * @returns held-out losses in nats per token; the last is that of the rounded weights
 */
export function pretrain(
  model: Llama,
  tokenizer: Tokenizer,
  options: PretrainOptions,
  report: (line: string) => void = () => {},
  every = 100,
): PretrainResult {
  const { seed, steps, batchSize, length, learningRate, warmupSteps, weightDecay, validationRows } = options;
  const take = (rows: Generator<Int32Array>, count: number) =>
    Array.from({ length: count }, () => rows.next().value as Int32Array);
  const rows = tokenRows(tokenizer, seed, length);
  const heldOut = take(tokenRows(tokenizer, seed + 1, length), validationRows);
  const loss = new WholeModelLoss(model, options);
  const validate = () => {
    const batches = Array.from({ length: Math.floor(validationRows / batchSize) }, (_, i) => i * batchSize);
    const losses = batches.map((at) => loss.run(heldOut.slice(at, at + batchSize)).loss);
    return losses.reduce((sum, one) => sum + one, 0) / losses.length;
  };
  const optimizer = adamW({ betas: [0.9, 0.95], weightDecay, noDecay: isNormOrBias })([...model.parameters.values()]);
  const result: PretrainResult = { validation: [], tokens: steps * batchSize * length };
  const begin = performance.now();
  for (let step = 1; step <= steps; step++) {
    optimizer.learningRate = learningRate * schedule(step, warmupSteps, steps);
    optimizer.beginStep();
    const { loss: value, norm } = loss.run(take(rows, batchSize), (name, gradient) => optimizer.update(name, gradient));
    optimizer.endStep();
    if (!Number.isFinite(value)) throw new Error(`the loss at step ${step} is ${value}: lower the learning rate`);
    if (step % every === 0 || step === steps) {
      result.validation.push({ step, loss: validate() });
      const seconds = (performance.now() - begin) / 1000;
      const held = result.validation.at(-1)!.loss;
      const speed = Math.round((step * batchSize * length) / seconds);
      report(
        `step ${step}/${steps} loss ${value.toFixed(4)} held-out ${held.toFixed(4)} norm ${norm.toFixed(2)} ${speed} tokens/s`,
      );
    }
  }
  optimizer.dispose();
  for (const parameter of model.parameters.values()) parameter.deactivate();
  result.validation.push({ step: steps, loss: validate() });
  loss.dispose();
  return result;
}

/** The share of the peak learning rate: linear warm-up, then half a cosine from 1 to 0.1. `step` counts from 1. */
function schedule(step: number, warmup: number, steps: number): number {
  if (step <= warmup) return step / warmup;
  return 0.1 + 0.45 * (1 + Math.cos((Math.PI * (step - warmup)) / Math.max(1, steps - warmup)));
}

function readme({ validation, tokens }: PretrainResult, options: PretrainOptions): string {
  const { tensorflow } = describeEngine();
  const rows = validation
    .slice(0, -1)
    .filter((_, i, all) => i % Math.ceil(all.length / 10) === 0 || i === all.length - 1);
  return `# The embedded model

A Llama of ${parameterCount(embeddedConfig).total.toLocaleString('en')} parameters (${embeddedConfig.num_hidden_layers} layers, hidden size ${embeddedConfig.hidden_size}, ${embeddedConfig.num_attention_heads} heads over ${embeddedConfig.num_key_value_heads} key-value heads,
vocabulary ${embeddedConfig.vocab_size}, tied embeddings, bfloat16), pretrained by this project on text this project generates: tiny stories and plain
facts about a small world (\`tools/src/embedded/corpus.ts\`). It continues stories; it has never seen an instruction. Fine-tuning on
\`../instructions.json\` teaches it to answer. Weights, tokenizer and text are under this repository's licence, Apache-2.0.

Made by \`npm run embedded:pretrain -w tools\`: ${options.steps} steps of ${options.batchSize} x ${options.length} tokens (${(tokens / 1e6).toFixed(1)} million, no text twice), seed
${options.seed}, AdamW with peak learning rate ${options.learningRate} (TensorFlow ${tensorflow}).

| step | held-out loss (nats per token) |
| ---: | ---: |
${rows.map(({ step, loss }) => `| ${step} | ${loss.toFixed(3)} |`).join('\n')}
| as saved, in bfloat16 | ${validation.at(-1)!.loss.toFixed(3)} |
`;
}

async function main(): Promise<void> {
  await initTensorFlow();
  const folder = join(embeddedFolder, 'model');
  const tokenizer = loadTokenizer(folder);
  const options = { ...pretrainDefaults, ...(process.argv[2] ? { steps: Number(process.argv[2]) } : {}) };
  const model = createLlama(embeddedConfig, freshWeights(embeddedConfig, createRandom(options.seed)));
  console.log(`${parameterCount(embeddedConfig).total} parameters, end token ${specialTokens.eos}`);
  const result = pretrain(model, tokenizer, options, console.log);
  await saveLlama(folder, { model, json: llamaConfigJson(embeddedConfig) });
  writeWhole(join(folder, 'README.md'), readme(result, options));
  model.dispose();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
