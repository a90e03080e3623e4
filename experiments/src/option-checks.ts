import type { Option } from './option.ts';
import { optionTable, suits, typedName } from './options.ts';
import type { OptionName, Options } from './options.ts';

/** Options that exclude each other, and values that no parser of a single option can refuse. */
const contradictions: { wrong: (options: Options) => boolean; message: string }[] = [
  {
    wrong: ({ valSize }) => valSize > 1 && !Number.isInteger(valSize),
    message: '--val_size: expected a share below 1 or a whole number of examples',
  },
  {
    wrong: ({ maxSteps }) => maxSteps === 0,
    message: '--max_steps: found 0, expected at least 1, or -1 to train for --num_train_epochs',
  },
  {
    wrong: ({ maxSteps, numTrainEpochs }) => maxSteps < 0 && numTrainEpochs === 0,
    message: '--num_train_epochs: found 0, expected more; --do_train false trains nothing',
  },
  {
    wrong: ({ evaluationStrategy, valSize }) => evaluationStrategy !== 'no' && valSize === 0,
    message:
      '--evaluation_strategy needs data held out, and --val_size is 0; set --val_size, or --evaluation_strategy no',
  },
  {
    wrong: ({ packing, groupByLength }) => packing && groupByLength,
    message: '--packing and --group_by_length exclude each other (packed rows have one length); leave one out',
  },
  {
    wrong: ({ compat, stochasticRounding }) => compat === 'official' && stochasticRounding,
    message:
      '--compat official rounds to nearest, as the badam package does; leave out --stochastic_rounding or --compat',
  },
  {
    wrong: ({ stochasticRounding, bf16, fp16 }) => stochasticRounding && (fp16 || !bf16),
    message: '--stochastic_rounding rounds to bfloat16, and --bf16 is false or --fp16 given; leave one out',
  },
  {
    wrong: ({ computeDtype, fp16 }) => computeDtype === 'bfloat16' && fp16,
    message: '--compute_dtype bfloat16 does not multiply the float16 weights of --fp16; leave one out',
  },
  {
    wrong: ({ pureBf16, bf16 }) => pureBf16 && !bf16,
    message: '--pure_bf16 keeps weights in bfloat16 alone, and --bf16 is false; leave one out',
  },
  {
    wrong: ({ loraOnly, useBadam, finetuningType }) => finetuningType === 'lora' && !loraOnly && useBadam,
    message: '--lora_only false trains all weights, and --use_badam one block; leave one out',
  },
  {
    wrong: ({ useBadam, finetuningType }) => useBadam && !['block', 'sparse', 'lora', 'qlora'].includes(finetuningType),
    message: '--use_badam needs --finetuning_type full, lora or qlora',
  },
  {
    wrong: ({ useBadam, badamMode, finetuningType }) =>
      useBadam && badamMode === 'ratio' && ['block', 'lora', 'qlora'].includes(finetuningType),
    message: '--badam_mode ratio needs --finetuning_type full: the others train layer by layer; leave it out',
  },
  {
    wrong: ({ useGalore, finetuningType }) => useGalore && finetuningType !== 'galore',
    message: '--use_galore needs --finetuning_type full, and no --use_badam',
  },
  {
    wrong: ({ quantizationBit, finetuningType }) => quantizationBit !== null && finetuningType !== 'qlora',
    message:
      '--quantization_bit 4 needs --finetuning_type lora or qlora: weights that train themselves cannot be kept in 4 bits',
  },
  {
    wrong: ({ useAdamMini, finetuningType }) => useAdamMini && !takesOptim(finetuningType),
    message: '--use_adam_mini needs a method that takes --optim, not sparse, lomo, adalomo or galore; leave it out',
  },
  {
    wrong: ({ useAdamMini, optim, finetuningType }) =>
      useAdamMini && optim !== 'adam_mini' && takesOptim(finetuningType),
    message: '--use_adam_mini and --optim name different optimizers; leave one out',
  },
  {
    wrong: ({ finetuningType, freezeTrainableLayers, freezeExtraModules }) =>
      finetuningType === 'freeze' && freezeTrainableLayers === 0 && freezeExtraModules === null,
    message:
      '--freeze_trainable_layers: found 0, which trains nothing; give a number of layers, or --freeze_extra_modules',
  },
  {
    wrong: ({ finetuningType, updateRatio }) => finetuningType === 'sparse' && updateRatio === 0,
    message: '--update_ratio: found 0, which trains nothing; expected more',
  },
  {
    wrong: ({ loraOnly, learningRate, lomoLearningRate }) => !loraOnly && learningRate === 0 && lomoLearningRate > 0,
    message: '--learning_rate: found 0, by which --lora_only false could not follow its schedule; expected more',
  },
  {
    wrong: ({ nesterov, momentum, dampening }) => nesterov && (momentum === 0 || dampening !== 0),
    message: '--nesterov needs --momentum above 0 and --dampening 0',
  },
];

/** Options that say nothing beside others. The official readme's command may well carry some, so they are no errors. */
const withoutEffect: { names: OptionName[]; when: (options: Options) => boolean; reason: string }[] = [
  {
    names: ['switchBlockEvery', 'switchMode', 'startBlock', 'blockPartition', 'compat'],
    when: ({ finetuningType, useBadam }) => /^q?lora$/.test(finetuningType) && !useBadam,
    reason: 'without --use_badam, by which the adapters train block by block',
  },
  {
    names: ['loraRank', 'loraAlpha', 'loraDropout', 'loraTarget', 'additionalTarget', 'loraBias', 'useRslora'],
    when: ({ adapterNameOrPath }) => adapterNameOrPath !== null,
    reason: 'with --adapter_name_or_path, whose adapter_config.json says it',
  },
  { names: ['lomoLearningRate'], when: ({ loraOnly }) => loraOnly, reason: 'without --lora_only false' },
  { names: ['badamMode'], when: ({ useBadam }) => !useBadam, reason: 'without --use_badam' },
  {
    names: ['badamMode'],
    when: ({ useBadam, badamMode, finetuningType }) => useBadam && badamMode === 'layer' && finetuningType === 'sparse',
    reason: 'with --finetuning_type sparse, which is its ratio',
  },
  {
    names: ['stochasticRounding'],
    when: ({ finetuningType, pureBf16 }) =>
      ['full', 'freeze', 'galore', 'bitnet'].includes(finetuningType) && !pureBf16,
    reason: 'without --pure_bf16: float32 masters stay to the end',
  },
  {
    names: ['streamed'],
    when: ({ finetuningType, pureBf16 }) => ['full', 'galore', 'bitnet'].includes(finetuningType) && !pureBf16,
    reason: 'without --pure_bf16: all weights train and become float32',
  },
  {
    names: ['switchBlockEvery'],
    // An interval of -1 that never ends is how --use_badam says fixed.
    when: ({ finetuningType, switchMode, switchBlockEvery }) =>
      finetuningType !== 'sparse' && switchMode === 'fixed' && switchBlockEvery !== 'auto',
    reason: 'with --switch_mode fixed',
  },
  {
    names: ['adamBeta1', 'adamBeta2', 'adamEpsilon'],
    when: ({ optim }) => optim === 'sgd',
    reason: 'with --optim sgd',
  },
  {
    names: ['momentum', 'dampening', 'nesterov'],
    when: ({ optim }) => optim !== 'sgd',
    reason: 'unless --optim is sgd',
  },
  {
    names: ['dampening'],
    when: ({ optim, momentum }) => optim === 'sgd' && momentum === 0,
    reason: 'without --momentum',
  },
  {
    names: ['weightDecay'],
    when: ({ finetuningType }) => finetuningType === 'sparse',
    reason: 'with --finetuning_type sparse, which has none',
  },
  {
    names: ['warmupRatio', 'warmupSteps'],
    when: ({ lrSchedulerType }) => lrSchedulerType === 'constant',
    reason: 'with --lr_scheduler_type constant; constant_with_warmup warms up',
  },
  {
    names: ['warmupRatio'],
    when: ({ warmupSteps, lrSchedulerType }) => warmupSteps > 0 && lrSchedulerType !== 'constant',
    reason: 'beside --warmup_steps',
  },
  {
    names: ['evalSteps'],
    when: ({ evaluationStrategy }) => evaluationStrategy !== 'steps',
    reason: 'unless --evaluation_strategy is steps',
  },
  { names: ['numTrainEpochs'], when: ({ maxSteps }) => maxSteps > 0, reason: 'beside --max_steps' },
  {
    names: ['overwriteOutputDir'],
    when: ({ resumeFromCheckpoint }) => resumeFromCheckpoint !== null,
    reason: 'with --resume_from_checkpoint',
  },
];

/**
 * What options contradict each other, and what they say in vain, before anything is loaded.
 *
 * @param options all options, resolved
 * @param given those that the user set
 * @returns `problems` must be mended; `warnings` are for reading
 */
export function checkOptions(options: Options, given: Partial<Options>): { problems: string[]; warnings: string[] } {
  const problems = contradictions.filter(({ wrong }) => wrong(options)).map(({ message }) => message);
  const { finetuningType } = options;
  // A flag that is given as off, and is off anyway, asks for nothing.
  const said = names.filter((name) => given[name] !== undefined && !(given[name] === false && !table[name].default));
  const own = said.filter((name) => suits(table[name], finetuningType));
  const idle = [
    { names: said.filter((name) => !own.includes(name)), reason: `with --finetuning_type ${finetuningType}` },
    ...withoutEffect
      .filter(({ when }) => when(options))
      .map(({ names, reason }) => ({ names: names.filter((name) => own.includes(name)), reason })),
  ];
  const warnings = idle
    .filter(({ names }) => names.length > 0)
    .map(({ names, reason }) => `${names.map((name) => `--${typedName(name)}`).join(', ')}: without effect ${reason}`);
  return { problems, warnings };
}

const table: Readonly<Record<OptionName, Option<unknown>>> = optionTable;
const takesOptim = (type: Options['finetuningType']) => suits(table.optim, type);
const names = Object.keys(optionTable) as OptionName[];
