import { typedName } from './options.ts';
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
    wrong: ({ stochasticRounding, bf16 }) => stochasticRounding && !bf16,
    message: '--stochastic_rounding rounds to bfloat16, and --bf16 is false; leave one out',
  },
];

/** Options that say nothing beside others. The official readme's command may well carry some, so they are no errors. */
const withoutEffect: { names: OptionName[]; when: (options: Options) => boolean; reason: string }[] = [
  {
    names: [
      'switchBlockEvery',
      'switchMode',
      'startBlock',
      'blockPartition',
      'includeEmbedding',
      'includeLmHead',
      'compat',
      'stochasticRounding',
    ],
    when: ({ finetuningType }) => finetuningType === 'full',
    reason: 'with --finetuning_type full',
  },
  {
    names: ['switchBlockEvery'],
    when: ({ finetuningType, switchMode }) => finetuningType === 'block' && switchMode === 'fixed',
    reason: 'with --switch_mode fixed',
  },
  {
    names: ['adamBeta1', 'adamBeta2', 'adamEpsilon'],
    when: ({ optim }) => optim === 'sgd',
    reason: 'with --optim sgd',
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
  { names: ['template'], when: ({ stage }) => stage === 'pt', reason: 'with --stage pt' },
  { names: ['numTrainEpochs'], when: ({ maxSteps }) => maxSteps > 0, reason: 'beside --max_steps' },
  {
    names: ['overwriteOutputDir'],
    when: ({ resumeFromCheckpoint }) => resumeFromCheckpoint !== null,
    reason: 'with --resume_from_checkpoint: the run goes on in its folder',
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
  const warnings = withoutEffect.flatMap(({ names, when, reason }) => {
    const set = names.filter((name) => given[name] !== undefined && given[name] !== false);
    if (set.length === 0 || !when(options)) return [];
    return [`${set.map((name) => `--${typedName(name)}`).join(', ')}: without effect ${reason}`];
  });
  return { problems, warnings };
}
