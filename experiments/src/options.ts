import { templateNames } from '@blockwise/loaders';
import { schedulerTypes } from '@blockwise/training';
import {
  checkpoint,
  choice,
  choices,
  flag,
  integer,
  orNull,
  path,
  pathOrName,
  pathsOrNames,
  real,
  stepsOrShare,
} from './option-kinds.ts';
import type { Kind } from './option-kinds.ts';
import { methodOptions } from './method-options.ts';
import { finetuningTypes, option, type FinetuningType, type Option, type Way } from './option.ts';

const modes = choice(['auto', 'true', 'false']);
/** As transformers' flag of the name (bare: true; True and False too), and auto. */
const checkpointing: Kind<'auto' | 'true' | 'false'> = {
  ...modes,
  parse: (word, folder) => modes.parse(word.toLowerCase(), folder),
  bare: 'true',
};

const model = 'Model';
const data = 'Data';
const optimizer = 'Optimizer';
const length = 'Batches and length of training';
const evaluation = 'Evaluation';
const output = 'Output and checkpoints';
const machine = 'Machine';

/** Methods that take any rule of update, and those whose rule has Adam's moments. */
const withOptim: FinetuningType[] = ['block', 'full', 'freeze', 'lora', 'qlora', 'bitnet'];
const withAdam: FinetuningType[] = [...withOptim, 'sparse', 'galore'];

/** Every option under its name in the code; on the command line `learningRate` is `--learning_rate`. */
export const optionTable = {
  modelNameOrPath: option(
    model,
    pathOrName,
    { default: 'embedded', aliases: ['model'], mayChange: true },
    'A folder in Hugging Face layout, a hub id, or embedded: the small Llama that this repository holds.',
  ),
  template: option(
    model,
    orNull(choice(templateNames)),
    { default: null, embedded: 'alpaca', mayChange: true },
    "How a conversation becomes text; tokenizer is the chat template of the model's own tokenizer, which is taken if none is named, or default where it has none.",
  ),
  bf16: option(
    model,
    flag,
    { default: true },
    'Keep weights at rest in bfloat16 (2 bytes a parameter); false keeps float32 (4 bytes). The active block is float32.',
  ),
  computeDtype: option(
    model,
    choice(['float32', 'bfloat16']),
    { default: 'float32', only: finetuningTypes.filter((type) => !['qlora', 'bitnet'].includes(type)) },
    'What linear layers and attention multiply in. bfloat16 (sums and all else in float32, as torch.autocast) is about twice as fast on a CPU with AVX512_BF16 or AMX, and far slower on others.',
  ),
  streamed: option(
    model,
    flag,
    { default: false, mayChange: true },
    'Read frozen weights from their file whenever they are used, and keep none in memory: for models near or above the size of memory. They have to be stored in the dtype that they are kept in.',
  ),
  fp16: option(
    model,
    flag,
    { default: false, only: ['lomo', 'adalomo'] },
    'Keep weights at rest in float16, and scale the loss so that gradients fit into it; steps that overflow are skipped.',
  ),

  stage: option(
    data,
    choice(['sft', 'pt'], { rm: null, ppo: null, dpo: null, kto: null, orpo: null }),
    { default: 'sft', mayChange: true },
    'sft learns answers from instructions; pt learns all of plain text.',
  ),
  dataset: option(
    data,
    pathsOrNames,
    { default: 'embedded', mayChange: true },
    'A .json, .jsonl, .parquet or (stage pt) .txt file, a folder of them, a hub id, a known name (alpaca_gpt4_en), several of these, or embedded.',
  ),
  datasetDir: option(
    data,
    orNull(path),
    { default: null, mayChange: true },
    "A folder with LLaMA-Factory's dataset_info.json: names of dataset that it has mean what it says, with its columns and tags.",
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
    { default: null, unit: 'records', mayChange: true },
    'Use only so many records of each dataset, from its start.',
  ),
  packing: option(
    data,
    flag,
    { default: false, aliases: ['neat_packing'] },
    'Fill each row with several examples; attention stays inside each.',
  ),
  groupByLength: option(
    data,
    flag,
    { default: false },
    'Put examples of like length into one batch, so that less is padding.',
  ),
  overwriteCache: option(
    data,
    flag,
    { default: false, mayChange: true },
    'Tokenise again even if the cache holds the result.',
  ),
  cacheDir: option(
    data,
    orNull(path),
    { default: null, mayChange: true },
    "Folder for downloads and tokenised data; by default Hugging Face's own cache and datasets/cache.",
  ),

  ...methodOptions,

  gradientCheckpointing: option(
    machine,
    checkpointing,
    { default: 'auto', mayChange: true },
    'true recomputes whole layers for the gradients; false keeps the results of their matrix products; auto keeps what fits into a quarter of the weights.',
  ),

  optim: option(
    optimizer,
    choice(['adamw', 'adam', 'sgd', 'adamw_8bit', 'adam_8bit', 'adam_mini'], {
      ...{ adamw_torch: 'adamw', adamw_torch_fused: 'adamw', adamw_hf: 'adamw', adamw_bnb_8bit: 'adamw_8bit' },
      ...{ adam8bit: 'adam_8bit', adamw8bit: 'adamw_8bit' },
    }),
    { default: 'adamw', of: { qlora: 'adamw_8bit' }, only: withOptim },
    'The rule that updates the active parameters; the methods that are left out of help bring their own.',
  ),
  learningRate: option(
    optimizer,
    real({ min: 0 }),
    { default: 1e-5, embedded: 2e-3, of: { lomo: 0.03, adalomo: 5e-4 }, mayChange: true },
    'The highest learning rate, reached after warm-up.',
  ),
  lrSchedulerType: option(
    optimizer,
    choice(schedulerTypes),
    { default: 'cosine', mayChange: true },
    'How the learning rate goes on after warm-up; linear and cosine fall to 0.',
  ),
  warmupRatio: option(
    optimizer,
    real({ min: 0, max: 1 }),
    { default: 0, unit: 'share of all steps', mayChange: true },
    'Warm-up, in which the learning rate rises from 0.',
  ),
  warmupSteps: option(
    optimizer,
    integer({ min: 0 }),
    { default: 0, unit: 'steps', mayChange: true },
    'Warm-up in steps; if above 0, warmup_ratio does not count.',
  ),
  weightDecay: option(
    optimizer,
    real({ min: 0 }),
    { default: 0.01, unit: 'share of a weight, times the learning rate, a step' },
    'Weight decay, decoupled (adam and sgd: added to the gradient, as in PyTorch); norms and biases have none unless compat is official.',
  ),
  maxGradNorm: option(
    optimizer,
    real({ min: 0 }),
    { default: 1, of: { lomo: 0, adalomo: 0 }, unit: 'L2 norm', aliases: ['clip_grad_norm'], mayChange: true },
    'Gradients above this norm are scaled down to it; 0 is no clipping. (lomo and adalomo run backward twice for it.)',
  ),
  clipGradValue: option(
    optimizer,
    real({ min: 0 }),
    { default: 0, unit: 'of a gradient', mayChange: true },
    'Elements of gradients beyond this size are cut to it; 0 is no cutting.',
  ),
  momentum: option(optimizer, real({ min: 0, below: 1 }), { default: 0, only: withOptim }, "SGD's momentum."),
  dampening: option(
    optimizer,
    real({ min: 0, max: 1 }),
    { default: 0, only: withOptim },
    "The share of each gradient that SGD's momentum leaves out.",
  ),
  nesterov: option(optimizer, flag, { default: false, only: withOptim }, 'SGD looks ahead along its momentum.'),
  adamBeta1: option(
    optimizer,
    real({ min: 0, below: 1 }),
    { default: 0.9, only: withAdam },
    "Decay of Adam's first moment.",
  ),
  adamBeta2: option(
    optimizer,
    real({ min: 0, below: 1 }),
    { default: 0.999, only: withAdam },
    "Decay of Adam's second moment.",
  ),
  adamEpsilon: option(
    optimizer,
    real({ min: 0 }),
    { default: 1e-8, only: withAdam },
    "Added to the root of Adam's second moment.",
  ),

  doTrain: option(
    length,
    flag,
    { default: true, mayChange: true },
    'Train; false only evaluates, answers the samples and writes export_dir.',
  ),
  doPredict: option(
    evaluation,
    flag,
    { default: true, mayChange: true },
    'Answer three prompts before and after training, 64 tokens at most: of a large model on a small machine that takes a while.',
  ),
  perDeviceTrainBatchSize: option(
    length,
    integer({ min: 1 }),
    { default: 2, embedded: 8, unit: 'examples' },
    'Examples in one forward and backward pass.',
  ),
  gradientAccumulationSteps: option(
    length,
    integer({ min: 1 }),
    { default: 8, embedded: 1, unit: 'batches', mayChange: true },
    'Batches whose gradients are averaged in one step.',
  ),
  numTrainEpochs: option(
    length,
    real({ min: 0 }),
    { default: 3, embedded: 2, unit: 'passes over the data', mayChange: true },
    'Length of training.',
  ),
  maxSteps: option(
    length,
    integer({ min: -1 }),
    { default: -1, unit: 'steps', mayChange: true },
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
    { default: 0, embedded: 0.05, unit: 'below 1 a share of the data, else examples', mayChange: true },
    'Part of the data held out for validation; 0 is none.',
  ),
  evaluationStrategy: option(
    evaluation,
    choice(['no', 'steps', 'epoch']),
    { default: 'steps', aliases: ['eval_strategy'], mayChange: true },
    'When to measure the validation loss: never, every eval_steps, or after each epoch.',
  ),
  evalSteps: option(
    evaluation,
    stepsOrShare({ min: 1 }),
    { default: 100, embedded: 25, unit: 'steps, below 1 a share of all steps', mayChange: true },
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
    { default: null, mayChange: true },
    'Folder of the run; by default a new one under results/alpaca-llama.',
  ),
  overwriteOutputDir: option(
    output,
    flag,
    { default: false, mayChange: true },
    "Delete an earlier run's files in output_dir first; without it such a folder is refused.",
  ),
  resumeFromCheckpoint: option(
    output,
    checkpoint,
    { default: null, mayChange: true },
    'Go on from a checkpoint, exactly: its path, or latest for the newest in the output folder.',
  ),
  saveSteps: option(
    output,
    stepsOrShare({ min: 0 }),
    { default: 500, unit: 'steps, below 1 a share of all steps', mayChange: true },
    'Steps between two checkpoints; 0 saves only at the end.',
  ),
  loggingSteps: option(
    output,
    stepsOrShare({ min: 1 }),
    { default: 10, unit: 'steps, below 1 a share of all steps', mayChange: true },
    'Steps between two lines of log; their loss is the mean since the line before.',
  ),
  reportTo: option(
    output,
    choices(['tensorboard', 'jsonl']),
    { default: ['tensorboard', 'jsonl'], mayChange: true },
    'Logs to write beside the results.',
  ),
  plotLoss: option(output, flag, { default: true, mayChange: true }, 'Draw loss.png.'),

  device: option(
    machine,
    choice(['cpu', 'gpu']),
    { default: 'cpu', mayChange: true },
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

/** Whether an option says anything to a method. */
export const suits = ({ only }: Option<unknown>, type: FinetuningType) => only?.includes(type) ?? true;

/** Defaults for what was not given or does not suit the method; methods and the embedded model have some of their own. */
export function resolveOptions(typed: Partial<Options>): Options {
  const given = { ...typed, ...inOurWords(typed) };
  const type = given.finetuningType ?? optionTable.finetuningType.default;
  const badam: Way = type === 'sparse' ? 'badam_mode ratio' : 'badam_mode layer';
  const isEmbedded = (given.modelNameOrPath ?? optionTable.modelNameOrPath.default) === 'embedded';
  const entries = Object.entries(optionTable as Record<OptionName, Option<unknown>>).map(([name, option]) => {
    const value = suits(option, type) ? given[name as OptionName] : undefined;
    const embedded = isEmbedded ? option.embedded : undefined;
    return [
      name,
      value ?? (given.useBadam ? option.of?.[badam] : undefined) ?? option.of?.[type] ?? embedded ?? option.default,
    ];
  });
  const options = structuredClone(Object.fromEntries(entries)) as Options;
  // Without data held out there is nothing to evaluate: val_size 0 alone is no contradiction.
  if (options.valSize === 0 && given.evaluationStrategy === undefined) options.evaluationStrategy = 'no';
  return options;
}

/** What LLaMA-Factory's flags say, and -1 for an interval, in the words of other options; checkOptions() refuses flags that fit no method. */
function inOurWords(typed: Partial<Options>): Partial<Options> {
  const { finetuningType: type, useBadam, badamMode, useGalore, quantizationBit, useAdamMini, optim } = typed;
  const full = type === undefined || type === 'full';
  return {
    ...(useBadam && full ? { finetuningType: badamMode === 'ratio' ? 'sparse' : 'block' } : {}),
    ...(useGalore && full ? { finetuningType: 'galore' } : {}),
    ...(quantizationBit && (type === undefined || type === 'lora') ? { finetuningType: 'qlora' } : {}),
    ...(useAdamMini && optim === undefined ? { optim: 'adam_mini' } : {}),
    ...(typed.switchBlockEvery === -1
      ? { switchBlockEvery: 'auto', ...(useBadam ? { switchMode: 'fixed' } : {}) }
      : {}),
  };
}
