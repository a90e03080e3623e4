import { templateNames } from '@blockwise/loaders';
import {
  checkpoint,
  choice,
  choices,
  flag,
  integer,
  integerOr,
  orNull,
  path,
  pathOrName,
  real,
} from './option-kinds.ts';
import type { Kind } from './option-kinds.ts';

const modes = choice(['auto', 'true', 'false']);
/** As transformers' flag of the name (bare: true; True and False too), and auto. */
const checkpointing: Kind<'auto' | 'true' | 'false'> = {
  ...modes,
  parse: (word, folder) => modes.parse(word.toLowerCase(), folder),
  bare: 'true',
};

/** One option: parser, help, default and saved config all derive from this record. */
export interface Option<T> {
  readonly topic: string;
  readonly kind: Kind<T>;
  readonly default: T;
  /** The default while the embedded model trains, where the general one would not suit so small a model. */
  readonly embedded?: T;
  /** What the value counts, for help. */
  readonly unit?: string;
  readonly help: string;
  /** Other names, as typed, that mean the same. */
  readonly aliases?: readonly string[];
}

function option<T>(
  topic: string,
  kind: Kind<T>,
  value: { default: NoInfer<T>; embedded?: NoInfer<T>; unit?: string; aliases?: string[] },
  help: string,
): Option<T> {
  return { topic, kind, ...value, help };
}

const model = 'Model';
const data = 'Data';
const method = 'Method: which parameters train when';
const optimizer = 'Optimizer';
const length = 'Batches and length of training';
const evaluation = 'Evaluation';
const output = 'Output and checkpoints';
const machine = 'Machine';

/** Every option under its name in the code; on the command line `learningRate` is `--learning_rate`. */
export const optionTable = {
  modelNameOrPath: option(
    model,
    pathOrName,
    { default: 'embedded' },
    'A folder in Hugging Face layout, a hub id, or embedded: the small Llama that this repository holds.',
  ),
  template: option(
    model,
    choice(templateNames),
    { default: 'default', embedded: 'alpaca' },
    "How a conversation becomes text; tokenizer is the chat template of the model's own tokenizer.",
  ),
  bf16: option(
    model,
    flag,
    { default: true },
    'Keep weights at rest in bfloat16 (2 bytes a parameter); false keeps float32 (4 bytes). Computation and the active block are float32.',
  ),
  stochasticRounding: option(
    model,
    flag,
    { default: false },
    'Round to bfloat16 at random in proportion, so that updates below its precision survive on average.',
  ),

  stage: option(
    data,
    choice(['sft', 'pt'], ['rm', 'ppo', 'dpo', 'kto', 'orpo']),
    { default: 'sft' },
    'sft learns answers from instructions; pt learns all of plain text.',
  ),
  dataset: option(
    data,
    pathOrName,
    { default: 'embedded' },
    'A .json, .jsonl or .parquet file, a hub id, a known name (alpaca_gpt4_en), or embedded.',
  ),
  cutoffLen: option(
    data,
    integer({ min: 2 }),
    { default: 1024, embedded: 256, unit: 'tokens' },
    'Longest example; longer ones are cut.',
  ),
  maxSamples: option(
    data,
    orNull(integer({ min: 1 })),
    { default: null, unit: 'examples' },
    'Use only so many examples of the dataset, from its start.',
  ),
  packing: option(data, flag, { default: false }, 'Fill each row with several examples; attention stays inside each.'),
  groupByLength: option(
    data,
    flag,
    { default: false },
    'Put examples of like length into one batch, so that less is padding.',
  ),
  overwriteCache: option(data, flag, { default: false }, 'Tokenise again even if the cache holds the result.'),
  cacheDir: option(
    data,
    orNull(path),
    { default: null },
    "Folder for downloads and tokenised data; by default Hugging Face's own cache and datasets/cache.",
  ),

  finetuningType: option(
    method,
    choice(['block', 'full'], ['freeze', 'lora', 'qlora', 'sparse', 'lomo', 'adalomo', 'galore', 'bitnet']),
    { default: 'block' },
    'block is BAdam: one block at a time; full trains all parameters together.',
  ),
  switchBlockEvery: option(
    method,
    integerOr('auto', { min: 1 }),
    { default: 'auto', embedded: 25, unit: 'steps' },
    "The paper's K: steps on a block before the next takes over. auto is n/(B D), clipped to 50..100 (n examples, B a step, D blocks).",
  ),
  switchMode: option(
    method,
    choice(['random', 'ascending', 'descending', 'fixed']),
    { default: 'random' },
    'Order of the blocks; random is a new order each block-epoch, fixed stays with the first block.',
  ),
  startBlock: option(
    method,
    orNull(integer({ min: 0 })),
    { default: null, unit: 'block index' },
    "The first block; by default the order's own first (fixed: block 0).",
  ),
  blockPartition: option(
    method,
    choice(['layer', 'attention_mlp', 'matrix']),
    { default: 'layer' },
    "What a block is: a transformer layer, a layer's self_attn or mlp, or a single matrix.",
  ),
  includeEmbedding: option(method, flag, { default: false }, 'The embedding is a block too.'),
  includeLmHead: option(method, flag, { default: false }, 'The language modeling head is a block too.'),
  compat: option(
    method,
    choice(['paper', 'official']),
    { default: 'paper' },
    "paper follows Algorithm 1; official repeats the badam package's quirks (K-1 steps on the first block, weight decay on norms).",
  ),

  gradientCheckpointing: option(
    method,
    checkpointing,
    { default: 'auto' },
    'true recomputes whole layers for the gradients; false keeps the results of their matrix products; auto keeps what fits into a quarter of the weights.',
  ),

  optim: option(
    optimizer,
    choice(['adamw', 'sgd']),
    { default: 'adamw' },
    'The rule that updates the active parameters.',
  ),
  learningRate: option(
    optimizer,
    real({ min: 0 }),
    { default: 1e-5, embedded: 2e-3 },
    'The highest learning rate, reached after warm-up.',
  ),
  lrSchedulerType: option(
    optimizer,
    choice(['linear', 'cosine', 'constant', 'constant_with_warmup']),
    { default: 'cosine' },
    'How the learning rate goes on after warm-up; linear and cosine fall to 0.',
  ),
  warmupRatio: option(
    optimizer,
    real({ min: 0, max: 1 }),
    { default: 0, unit: 'share of all steps' },
    'Warm-up, in which the learning rate rises from 0.',
  ),
  warmupSteps: option(
    optimizer,
    integer({ min: 0 }),
    { default: 0, unit: 'steps' },
    'Warm-up in steps; if above 0, warmup_ratio does not count.',
  ),
  weightDecay: option(
    optimizer,
    real({ min: 0 }),
    { default: 0.01, unit: 'share of a weight, times the learning rate, a step' },
    'Decoupled weight decay; norms and biases have none unless compat is official.',
  ),
  maxGradNorm: option(
    optimizer,
    real({ min: 0 }),
    { default: 1, unit: 'L2 norm' },
    'Gradients above this norm are scaled down to it; 0 is no clipping.',
  ),
  adamBeta1: option(optimizer, real({ min: 0, below: 1 }), { default: 0.9 }, "Decay of AdamW's first moment."),
  adamBeta2: option(optimizer, real({ min: 0, below: 1 }), { default: 0.999 }, "Decay of AdamW's second moment."),
  adamEpsilon: option(optimizer, real({ min: 0 }), { default: 1e-8 }, "Added to the root of AdamW's second moment."),

  doTrain: option(length, flag, { default: true }, 'Train; false only evaluates and answers the samples.'),
  perDeviceTrainBatchSize: option(
    length,
    integer({ min: 1 }),
    { default: 2, embedded: 8, unit: 'examples' },
    'Examples in one forward and backward pass.',
  ),
  gradientAccumulationSteps: option(
    length,
    integer({ min: 1 }),
    { default: 8, embedded: 1, unit: 'batches' },
    'Batches whose gradients are averaged in one step.',
  ),
  numTrainEpochs: option(
    length,
    real({ min: 0 }),
    { default: 3, embedded: 2, unit: 'passes over the data' },
    'Length of training.',
  ),
  maxSteps: option(
    length,
    integer({ min: -1 }),
    { default: -1, unit: 'steps' },
    'Length of training in steps, instead of num_train_epochs; -1 leaves it to that.',
  ),
  seed: option(
    length,
    integer({ min: 0, max: 2 ** 31 - 1 }),
    { default: 42 },
    'Of all chance: the split, shuffling, block order, rounding.',
  ),

  valSize: option(
    evaluation,
    real({ min: 0 }),
    { default: 0.05, unit: 'below 1 a share of the data, else examples' },
    'Part of the data held out for validation; 0 is none.',
  ),
  evaluationStrategy: option(
    evaluation,
    choice(['no', 'steps', 'epoch']),
    { default: 'steps', aliases: ['eval_strategy'] },
    'When to measure the validation loss: never, every eval_steps, or after each epoch.',
  ),
  evalSteps: option(
    evaluation,
    integer({ min: 1 }),
    { default: 100, embedded: 25, unit: 'steps' },
    'Steps between two validations.',
  ),
  perDeviceEvalBatchSize: option(
    evaluation,
    integer({ min: 1 }),
    { default: 2, embedded: 16, unit: 'examples' },
    'Examples in one validation batch.',
  ),

  outputDir: option(
    output,
    orNull(path),
    { default: null },
    'Folder of the run; by default a new one under results/alpaca-llama.',
  ),
  overwriteOutputDir: option(
    output,
    flag,
    { default: false },
    "Delete an earlier run's files in output_dir first; without it such a folder is refused.",
  ),
  resumeFromCheckpoint: option(
    output,
    checkpoint,
    { default: null },
    'Go on from a checkpoint, exactly: its path, or latest for the newest in the output folder.',
  ),
  saveSteps: option(
    output,
    integer({ min: 0 }),
    { default: 500, unit: 'steps' },
    'Steps between two checkpoints; 0 saves only at the end.',
  ),
  loggingSteps: option(output, integer({ min: 1 }), { default: 10, unit: 'steps' }, 'Steps between two lines of log.'),
  reportTo: option(
    output,
    choices(['tensorboard', 'jsonl']),
    { default: ['tensorboard', 'jsonl'] },
    'Logs to write beside the results.',
  ),
  plotLoss: option(output, flag, { default: true }, 'Draw loss.png.'),

  device: option(
    machine,
    choice(['cpu', 'gpu']),
    { default: 'cpu' },
    'Where to compute; gpu takes the CUDA library and the first NVIDIA GPU.',
  ),
} as const;

/** The name of an option in the code and in the saved config. */
export type OptionName = keyof typeof optionTable;

/** Every option's value, resolved: what `run.json` saves as `config`. */
export type Options = { -readonly [K in OptionName]: (typeof optionTable)[K] extends Option<infer T> ? T : never };

/** `learningRate` as it is typed and shown: `learning_rate`. */
export function typedName(name: OptionName): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** Defaults for what was not given; the embedded model has some of its own. */
export function resolveOptions(given: Partial<Options>): Options {
  const isEmbedded = (given.modelNameOrPath ?? optionTable.modelNameOrPath.default) === 'embedded';
  const entries = Object.entries(optionTable as Record<string, Option<unknown>>).map(
    ([name, { default: general, embedded }]) => [name, isEmbedded && embedded !== undefined ? embedded : general],
  );
  const options = structuredClone({ ...Object.fromEntries(entries), ...given }) as Options;
  // Without data held out there is nothing to evaluate: val_size 0 alone is no contradiction.
  if (options.valSize === 0 && given.evaluationStrategy === undefined) options.evaluationStrategy = 'no';
  return options;
}
