import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { helpText, launchFolder, parseCommandLine, typedCommand } from './command-line.ts';
import { storageOf } from './open-model.ts';
import { optionTable, typedName } from './options.ts';
import type { OptionName, Options } from './options.ts';

const folder = mkdtempSync(join(tmpdir(), 'blockwise-options-'));
const plain = { env: {}, folder };
const nx = {
  env: {
    NX_TASK_TARGET_TARGET: 'alpaca-llama',
    NX_TASK_TARGET_PROJECT: 'experiments',
    NX_WORKSPACE_ROOT: folder,
    INIT_CWD: join(folder, 'experiments'),
  },
  folder: join(folder, 'experiments'),
};

function run(words: string | string[], surroundings = plain) {
  const parsed = parseCommandLine(typeof words === 'string' ? words.split(' ').filter(Boolean) : words, surroundings);
  if (parsed.kind !== 'run') throw new Error('expected a run');
  return parsed;
}

function problems(words: string | string[], surroundings = plain): string[] {
  try {
    run(words, surroundings);
  } catch (error) {
    expect(error).toMatchObject({ name: 'UserError' });
    const lines = (error as Error).message.split('\n');
    expect(lines[0]).toBe(`The command line has ${lines.length === 3 ? 'a problem' : `${lines.length - 2} problems`}:`);
    expect(lines.at(-1)).toBe('All options: npx nx run experiments:alpaca-llama -- --help');
    return lines.slice(1, -1).map((line) => line.trim());
  }
  return [];
}

describe('the default', () => {
  it('is the embedded, offline run', () => {
    const { options, warnings } = run('');
    expect(options).toMatchObject({
      modelNameOrPath: 'embedded',
      dataset: 'embedded',
      doTrain: true,
      finetuningType: 'block',
    });
    expect(warnings).toEqual([]);
    expect(Object.keys(options).sort()).toEqual(Object.keys(optionTable).sort());
  });

  it('has values of its own for the embedded model, which a given value and another model leave aside', () => {
    const { embedded, default: general } = optionTable.learningRate;
    expect(run('').options.learningRate).toBe(embedded);
    expect(run('--learning_rate 0.5').options.learningRate).toBe(0.5);
    expect(run('--model_name_or_path org/model').options.learningRate).toBe(general);
  });

  it('is a fresh record each time', () => {
    run('').options.reportTo.pop();
    expect(run('').options.reportTo).toEqual(['tensorboard', 'jsonl']);
  });
});

describe("the official readme's command", () => {
  const readme =
    '--stage sft --model_name_or_path meta-llama/Llama-2-7b --do_train --dataset alpaca_gpt4_en --template default ' +
    '--finetuning_type block --output_dir ./outputs/llama2-7b --overwrite_cache --per_device_train_batch_size 2 ' +
    '--per_device_eval_batch_size 2 --gradient_accumulation_steps 8 --lr_scheduler_type cosine --logging_steps 1 ' +
    '--save_steps 1000 --val_size 500 --eval_steps 20 --evaluation_strategy steps --learning_rate 1e-6 ' +
    '--num_train_epochs 3 --overwrite_output_dir --plot_loss --switch_block_every 100 --switch_mode random';

  const expected: Partial<Options> = {
    stage: 'sft',
    modelNameOrPath: 'meta-llama/Llama-2-7b',
    doTrain: true,
    dataset: 'alpaca_gpt4_en',
    template: 'default',
    finetuningType: 'block',
    outputDir: join(folder, 'outputs/llama2-7b'),
    overwriteCache: true,
    perDeviceTrainBatchSize: 2,
    perDeviceEvalBatchSize: 2,
    gradientAccumulationSteps: 8,
    lrSchedulerType: 'cosine',
    loggingSteps: 1,
    saveSteps: 1000,
    valSize: 500,
    evalSteps: 20,
    evaluationStrategy: 'steps',
    learningRate: 1e-6,
    numTrainEpochs: 3,
    overwriteOutputDir: true,
    plotLoss: true,
    switchBlockEvery: 100,
    switchMode: 'random',
  };

  it('works as it stands, in underscores, hyphens and camel case, with spaces and with =', () => {
    const camel = (word: string) => word.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
    const respell = (rule: (name: string) => string) => readme.replace(/--\w+/g, (name) => rule(name));
    const spellings = [
      readme,
      respell((name) => name.replaceAll('_', '-')),
      respell(camel),
      readme.replace(/(--\w+) (?!--)(\S+)/g, '$1=$2'),
      respell((name) => name.replaceAll('_', '-')).replace(/(--[\w-]+) (?!--)(\S+)/g, '$1=$2'),
    ];
    expect(new Set(spellings).size).toBe(5);
    for (const words of spellings) {
      const { options, warnings } = run(words);
      expect(options).toMatchObject(expected);
      expect(warnings).toEqual([]);
    }
  });

  it('leaves out options that are there under the names of BAdam and LLaMA-Factory', () => {
    const known = (Object.keys(optionTable) as OptionName[]).map(typedName);
    const named = 'bf16 cutoff_len seed resume_from_checkpoint warmup_ratio weight_decay max_steps';
    const ofBAdam = 'include_embedding include_lm_head start_block';
    expect(known).toEqual(expect.arrayContaining(`${named} ${ofBAdam}`.split(' ')));
  });
});

describe('values', () => {
  it('are true for a bare flag, and read every spelling of true and false', () => {
    for (const word of ['--packing', '--packing True', '--packing=1', '--no-packing false', '--noPacking=0']) {
      expect(run(word).options.packing, word).toBe(true);
    }
    for (const word of ['--plot_loss False', '--plot-loss=0', '--no-plot-loss', '--no_plot_loss', '--noPlotLoss']) {
      expect(run(word).options.plotLoss, word).toBe(false);
    }
    expect(run('--do_train --seed 3').options).toMatchObject({ doTrain: true, seed: 3 });
  });

  it('read K as a number, and auto and -1 as the same', () => {
    const values = ['100', 'auto', '-1', 'AUTO'].map(
      (word) => run(`--switch_block_every ${word}`).options.switchBlockEvery,
    );
    expect(values).toEqual([100, 'auto', 'auto', 'auto']);
  });

  it('read a checkpoint as a path, or the newest', () => {
    const values = ['', '=true', '=latest', ' runs/a/checkpoint-20', '=false'].map(
      (rest) => run(`--resume_from_checkpoint${rest}`).options.resumeFromCheckpoint,
    );
    expect(values).toEqual(['latest', 'latest', 'latest', join(folder, 'runs/a/checkpoint-20'), null]);
  });

  it('read lists, none and all', () => {
    const values = ['none', 'jsonl', 'jsonl,tensorboard', 'all'].map(
      (word) => run(`--report_to ${word}`).options.reportTo,
    );
    expect(values).toEqual([[], ['jsonl'], ['tensorboard', 'jsonl'], ['tensorboard', 'jsonl']]);
    expect(problems('--report_to none,jsonl')).toEqual([
      '--report_to: found "none,jsonl", expected none alone, or a list without it',
    ]);
  });

  it('take the last of several, whatever the spelling', () => {
    expect(run('--seed 1 --eval_strategy no --SEED=2 --evaluation-strategy epoch').options).toMatchObject({
      seed: 2,
      evaluationStrategy: 'epoch',
    });
  });

  it('keep a hub id, and resolve what is a path or lies there', () => {
    writeFileSync(join(folder, 'data.json'), '[]');
    const dataset = (word: string) => run(`--dataset ${word}`).options.dataset;
    expect(dataset('tatsu-lab/alpaca')).toBe('tatsu-lab/alpaca');
    expect(dataset('./missing.json')).toBe(join(folder, 'missing.json'));
    expect(dataset('../x')).toBe(join(folder, '..', 'x'));
    expect(dataset('/abs/x')).toBe('/abs/x');
    expect(dataset('data.json')).toBe(join(folder, 'data.json'));
    expect(dataset('data/mistyped.json')).toBe(join(folder, 'data/mistyped.json'));
    expect(dataset('datasets/org/name')).toBe('datasets/org/name');
    expect(dataset('~/data.json')).toBe('~/data.json');
    const model = (word: string) => run(`--model_name_or_path ${word}`).options.modelNameOrPath;
    expect(model('org/Llama-3.2-1B')).toBe('org/Llama-3.2-1B');
    expect(model('datasets/org/name')).toBe(join(folder, 'datasets/org/name'));
  });

  it('keep each name and resolve each path of a list of datasets', () => {
    expect(run(['--dataset', 'a.json,./b.json, alpaca_gpt4_en,org/set']).options.dataset).toBe(
      `${join(folder, 'a.json')},${join(folder, 'b.json')},alpaca_gpt4_en,org/set`,
    );
    expect(problems('--dataset a.json,,b.json')).toEqual([
      '--dataset: found "a.json,,b.json", expected a path or a name',
    ]);
  });
});

describe("LLaMA-Factory's own example commands", () => {
  // The keys of its examples/extras/badam/llama3_full_sft.yaml and examples/train_lora/llama3_lora_sft.yaml, with our model and data.
  const common =
    '--model_name_or_path embedded --trust_remote_code true --stage sft --do_train true --dataset embedded --cutoff_len 2048 --max_samples 1000 ' +
    '--preprocessing_num_workers 16 --dataloader_num_workers 4 --output_dir out --logging_steps 10 --save_steps 500 --plot_loss true ' +
    '--overwrite_output_dir true --save_only_model false --report_to none --per_device_train_batch_size 1 --gradient_accumulation_steps 8 ' +
    '--num_train_epochs 3.0 --lr_scheduler_type cosine --warmup_ratio 0.1';
  it.each([
    [
      'BAdam',
      '--finetuning_type full --use_badam true --badam_mode layer --badam_switch_mode ascending --badam_switch_interval 50 --badam_verbose 2 --learning_rate 5.0e-6 --pure_bf16 true',
    ],
    [
      'LoRA',
      '--finetuning_type lora --lora_rank 8 --lora_target all --learning_rate 1.0e-4 --bf16 true --ddp_timeout 180000000 --resume_from_checkpoint null',
    ],
  ])('are accepted, with a warning for what has no part here: %s', (_, own) => {
    const { warnings } = run(`${common} ${own}`);
    expect(warnings).toContain(
      '--preprocessing_num_workers: without effect: one process prepares the data, and computes',
    );
    expect(warnings).toContain('--trust_remote_code: without effect: no code is loaded with a model');
  });

  it('may say how transformers logs, where that decides nothing here', () => {
    const { warnings } = run(
      '--run_name a --logging_dir logs --log_level info --disable_tqdm true --logging_strategy steps',
    );
    expect(warnings).toEqual([
      '--run_name: without effect: a run has the name of its output folder',
      '--logging_dir: without effect: tensorboard/ is in the output folder',
      '--log_level: without effect: messages have one level',
      '--disable_tqdm: without effect: the bar is drawn on a terminal alone',
      '--logging_strategy: without effect: --logging_steps says when',
    ]);
  });
});

describe('problems', () => {
  it('come all in one error, with what is allowed and near matches', () => {
    const words =
      '--swich_block_every 100 --switch_mode rando --finetuning_type lara --learning_rate fast --num_train_epochs -1 ' +
      '--switch_block_every 0 --eval_steps 0 --logging_steps 1.5 --do_train maybe --adam_beta1 1 --per-device-train-batch-size 2.5 --colour red --warmupRatio=1.5 --seed';
    expect(problems(words)).toEqual([
      '--swich_block_every: no such option; did you mean --switch_block_every?',
      '--switch_mode: found "rando", expected random, ascending, descending or fixed (did you mean random?)',
      '--finetuning_type: found "lara", expected block, full, freeze, lora, qlora, sparse, lomo, adalomo, galore or bitnet (did you mean lora?)',
      '--learning_rate: found "fast", expected a number, at least 0',
      '--num_train_epochs: found "-1", expected a number, at least 0',
      '--switch_block_every: found "0", expected a whole number, at least 1, or auto (or -1)',
      '--eval_steps: found "0", expected a whole number, at least 1, or a share of all steps below 1',
      '--logging_steps: found "1.5", expected a whole number, at least 1, or a share of all steps below 1',
      '--do_train: found "maybe", expected true or false',
      '--adam_beta1: found "1", expected a number, at least 0 and below 1',
      '--per_device_train_batch_size: found "2.5", expected a whole number, at least 1',
      '--colour: no such option',
      '--warmup_ratio: found "1.5", expected a number, at least 0 and at most 1',
      '--seed: found nothing, expected a value (<integer>)',
    ]);
  });

  it('name what LLaMA-Factory has and this package has not', () => {
    expect(problems('--stage dpo')).toEqual(['--stage: found "dpo", not yet available; use sft or pt']);
  });

  it('come with combinations of methods that make no sense, before anything is loaded', () => {
    const cases: [string, string][] = [
      ['--use_badam --finetuning_type freeze', '--use_badam needs --finetuning_type full, lora or qlora'],
      ['--use_galore --finetuning_type lora', '--use_galore needs --finetuning_type full, and no --use_badam'],
      ['--quantization_bit 8', '--quantization_bit: found "8", expected 4'],
      [
        '--quantization_bit 4 --finetuning_type full',
        '--quantization_bit 4 needs --finetuning_type lora or qlora: weights that train themselves cannot be kept in 4 bits',
      ],
      ['--use_adam_mini --optim sgd', '--use_adam_mini and --optim name different optimizers; leave one out'],
      [
        '--use_galore --use_adam_mini',
        '--use_adam_mini needs a method that takes --optim, not sparse, lomo, adalomo or galore; leave it out',
      ],
      ...['block', 'lora', 'qlora'].map((type): [string, string] => [
        `--finetuning_type ${type} --use_badam --badam_mode ratio`,
        '--badam_mode ratio needs --finetuning_type full: the others train layer by layer; leave it out',
      ]),
      [
        '--pure_bf16 --no_bf16 --finetuning_type full',
        '--pure_bf16 keeps weights in bfloat16 alone, and --bf16 is false; leave one out',
      ],
      [
        '--finetuning_type freeze --freeze_trainable_layers 0',
        '--freeze_trainable_layers: found 0, which trains nothing; give a number of layers, or --freeze_extra_modules',
      ],
      ['--finetuning_type sparse --update_ratio 0', '--update_ratio: found 0, which trains nothing; expected more'],
      ['--optim sgd --nesterov', '--nesterov needs --momentum above 0 and --dampening 0'],
      [
        '--finetuning_type lora --no_lora_only --use_badam',
        '--lora_only false trains all weights, and --use_badam one block; leave one out',
      ],
      [
        '--freeze_extra_modules norm, --finetuning_type freeze',
        '--freeze_extra_modules: found "norm,", expected names separated by commas',
      ],
    ];
    for (const [words, problem] of cases) expect(problems(words), words).toEqual([problem]);
  });

  it('name the templates that there are', () => {
    expect(problems('--template lama3')[0]).toMatch(
      /^--template: found "lama3", expected .*llama3.* \(did you mean llama3\?\)$/,
    );
  });

  it('include stray words, empty values and numbers that are none', () => {
    expect(problems(['run', '--seed', '0x10', '--output_dir', '', '--dataset='])).toEqual([
      '"run": found a value where an option (--name) was expected',
      '--seed: found "0x10", expected a whole number, at least 0 and at most 2147483647',
      '--output_dir: found "", expected a path',
      '--dataset: found "", expected a path or a name',
    ]);
  });

  it('say what a stray word was meant as: an option without its dashes, or another value of a list', () => {
    const stray = 'found a value where an option (--name) was expected';
    const commas = 'are separated with commas, without spaces';
    for (const surroundings of [plain, nx]) {
      expect(problems('learning_rate=1e-5 -no-plot-loss=true', surroundings)).toEqual([
        `"learning_rate=1e-5": ${stray}; did you mean --learning_rate=1e-5?`,
        `"-no-plot-loss=true": ${stray}; did you mean --no-plot-loss=true?`,
      ]);
      expect(problems('--lora_target q_proj v_proj --report_to=jsonl tensorboard', surroundings)).toEqual([
        `"v_proj": ${stray}; the values of --lora_target ${commas}`,
        `"tensorboard": ${stray}; the values of --report_to ${commas}`,
      ]);
    }
    expect(problems('--dataset a.json b.json')).toEqual([`"b.json": ${stray}; the values of --dataset ${commas}`]);
    expect(problems('colour=red --lora_target q_proj --seed 1 2')).toEqual([`"colour=red": ${stray}`, `"2": ${stray}`]);
  });

  it('include options that contradict each other', () => {
    expect(
      problems(
        '--packing --group_by_length --val_size 0 --eval_strategy epoch --stochastic_rounding --compat official --bf16 0',
      ),
    ).toEqual([
      '--evaluation_strategy needs data held out, and --val_size is 0; set --val_size, or --evaluation_strategy no',
      '--packing and --group_by_length exclude each other (packed rows have one length); leave one out',
      '--compat official rounds to nearest, as the badam package does; leave out --stochastic_rounding or --compat',
      '--stochastic_rounding rounds to bfloat16, and --bf16 is false or --fp16 given; leave one out',
    ]);
    expect(problems('--finetuning_type lora --lora_only false --learning_rate 0')).toEqual([
      '--learning_rate: found 0, by which --lora_only false could not follow its schedule; expected more',
    ]);
    expect(problems('--finetuning_type lomo --fp16 --compute_dtype bfloat16')).toEqual([
      '--compute_dtype bfloat16 does not multiply the float16 weights of --fp16; leave one out',
    ]);
    expect(problems('--val_size 1.5 --num_train_epochs 0')).toEqual([
      '--val_size: expected a share below 1 or a whole number of examples',
      '--num_train_epochs: found 0, expected more; --do_train false trains nothing',
    ]);
    expect(problems('--max_steps 0')).toHaveLength(1);
  });

  it('do not include fixed without a start block, nor val_size 0 alone', () => {
    expect(run('--switch_mode fixed').options).toMatchObject({ switchMode: 'fixed', startBlock: null });
    expect(run('--val_size 0').options.evaluationStrategy).toBe('no');
  });
});

describe('warnings', () => {
  it('name options without effect, and leave the run alone', () => {
    expect(run('--finetuning_type full --switch_block_every 100 --switch_mode random').warnings).toEqual([
      '--switch_block_every, --switch_mode: without effect with --finetuning_type full',
    ]);
    expect(
      run('--optim sgd --adam_beta2 0.9 --max_steps 5 --num_train_epochs 3 --warmup_steps 2 --warmup_ratio .1')
        .warnings,
    ).toEqual([
      '--adam_beta2: without effect with --optim sgd',
      '--warmup_ratio: without effect beside --warmup_steps',
      '--num_train_epochs: without effect beside --max_steps',
    ]);
    const cases: [string, string][] = [
      ['--lora_rank 4 --galore_rank 4', '--lora_rank, --galore_rank: without effect with --finetuning_type block'],
      ['--finetuning_type lomo --optim adamw', '--optim: without effect with --finetuning_type lomo'],
      [
        '--finetuning_type lora --start_block 1',
        '--start_block: without effect without --use_badam, by which the adapters train block by block',
      ],
      [
        '--finetuning_type full --stochastic_rounding',
        '--stochastic_rounding: without effect without --pure_bf16: float32 masters stay to the end',
      ],
      ...['full', 'galore', 'bitnet'].map((type): [string, string] => [
        `--finetuning_type ${type} --streamed`,
        '--streamed: without effect without --pure_bf16: all weights train and become float32',
      ]),
      ['--momentum 0.9', '--momentum: without effect unless --optim is sgd'],
      ['--badam_mode ratio', '--badam_mode: without effect without --use_badam'],
      [
        '--finetuning_type sparse --use_badam --badam_mode layer',
        '--badam_mode: without effect with --finetuning_type sparse, which is its ratio',
      ],
      [
        '--finetuning_type qlora --lora_only false --use_badam',
        '--lora_only: without effect with --finetuning_type qlora',
      ],
      ['--double_quantization false', '--double_quantization: without effect with --finetuning_type block'],
      [
        '--finetuning_type lomo --optim sgd --momentum 0.9',
        '--optim, --momentum: without effect with --finetuning_type lomo',
      ],
      [
        '--finetuning_type sparse --weight_decay 0.1',
        '--weight_decay: without effect with --finetuning_type sparse, which has none',
      ],
    ];
    for (const [words, warning] of cases) expect(run(words).warnings, words).toEqual([warning]);
    for (const type of ['block', 'freeze', 'lora', 'lomo', 'full --pure_bf16'])
      expect(run(`--streamed --finetuning_type ${type}`).warnings, type).toEqual([]);
  });

  it('are true: what is without effect with the method is as if it were not given', () => {
    const words = '--fp16 --lora_only false --galore_rank 4 --finetuning_type';
    const given = { fp16: true, loraOnly: false, galoreRank: 4 };
    expect(run(`${words} qlora`).options).toMatchObject({ fp16: false, loraOnly: true, galoreRank: 16 });
    expect(storageOf(run(`${words} block`).options)).toBe('bfloat16');
    expect(run(`${words} lomo`).options).toMatchObject({ ...given, loraOnly: true, galoreRank: 16 });
    expect(problems('--fp16 --compute_dtype bfloat16')).toEqual([]);
  });

  it('do not include flags that are off anyway, nor what does have an effect', () => {
    expect(run('--fp16 false --use_rslora false').warnings).toEqual([]);
    // It decides the token that ends a text.
    expect(run('--stage pt --template llama3').warnings).toEqual([]);
  });
});

describe("LLaMA-Factory's commands", () => {
  it.each<[string, Partial<Options>]>([
    [
      '--finetuning_type full --use_badam --badam_switch_mode ascending --badam_switch_interval 50 --badam_start_block 1',
      { finetuningType: 'block', switchMode: 'ascending', switchBlockEvery: 50, startBlock: 1 },
    ],
    [
      '--finetuning_type full --use_badam --badam_mode ratio --badam_update_ratio 0.05 --badam_mask_mode scatter',
      { finetuningType: 'sparse', updateRatio: 0.05, maskMode: 'scatter' },
    ],
    [
      '--finetuning_type full --use_badam',
      { finetuningType: 'block', switchMode: 'ascending', switchBlockEvery: 50, startBlock: null },
    ],
    ['--finetuning_type lora --use_badam', { switchMode: 'ascending', switchBlockEvery: 50 }],
    [
      '--finetuning_type full --use_badam --badam_mode ratio --model org/model',
      { finetuningType: 'sparse', updateRatio: 0.05, maskMode: 'adjacent', switchBlockEvery: 'auto' },
    ],
    [
      '--finetuning_type full --use_badam --badam_switch_interval -1',
      { finetuningType: 'block', switchMode: 'fixed', switchBlockEvery: 'auto' },
    ],
    [
      '--finetuning_type full --use_galore',
      { galoreTarget: ['all'], galoreRank: 16, galoreUpdateInterval: 200, galoreScale: 2, galoreProjType: 'std' },
    ],
    ['--finetuning_type block', { switchMode: 'random', updateRatio: 0.1 }],
    ['--finetuning_type full --use_galore --galore_rank 128', { finetuningType: 'galore', galoreRank: 128 }],
    ['--finetuning_type lora --quantization_bit 4', { finetuningType: 'qlora', optim: 'adamw_8bit' }],
    [
      '--finetuning_type lora --lora_target q_proj,v_proj',
      { finetuningType: 'lora', loraTarget: ['q_proj', 'v_proj'] },
    ],
    ['--finetuning_type full --use_adam_mini --optim adam_mini', { finetuningType: 'full', optim: 'adam_mini' }],
    ['--finetuning_type full --optim adamw_torch', { optim: 'adamw' }],
    ['--finetuning_type full --optim adamw_bnb_8bit', { optim: 'adamw_8bit' }],
  ])('%s', (words, expected) => {
    const { options, warnings } = run(words);
    expect(options).toMatchObject(expected);
    expect(warnings).toEqual([]);
  });
});

describe('under nx', () => {
  it('starts relative paths from the root of the workspace, and under npm from the folder of the call', () => {
    expect(run('--output_dir out', nx).options.outputDir).toBe(join(folder, 'out'));
    expect(launchFolder({ env: { INIT_CWD: '/typed/here' }, folder: '/repo/experiments' })).toBe('/typed/here');
    expect(launchFolder({ env: {}, folder: '/here' })).toBe('/here');
  });

  it('joins the words of a path whose quotes nx dropped, and takes words where they do not belong for what they are', () => {
    expect(run('--output_dir=my runs/one two --seed 1', nx).options).toMatchObject({
      outputDir: join(folder, 'my runs/one two'),
      seed: 1,
    });
    expect(problems('--seed 1 2', nx)).toEqual([
      '"2": found a value where an option (--name) was expected (nx hands values on without their quotes)',
    ]);
    expect(problems('--output_dir a b')).toHaveLength(1);
  });

  it('remembers the command so that it can be typed again', () => {
    expect(typedCommand(['--seed=1', '--output_dir', "it's here"], nx.env)).toBe(
      String.raw`npx nx run experiments:alpaca-llama --seed=1 --output_dir 'it'\''s here'`,
    );
    expect(run('--seed 1', nx).command).toBe('npx nx run experiments:alpaca-llama --seed 1');
  });
});

describe('--help', () => {
  it('wins over anything else, and explains every option with its unit and default', () => {
    expect(parseCommandLine(['--nonsense', '--help'])).toEqual({ kind: 'help', text: helpText() });
    expect(parseCommandLine(['-h']).kind).toBe('help');
    const text = helpText().replaceAll(/\|\s+/g, '|').replaceAll(/\s+/g, ' ');
    let covered = 0;
    for (const [name, option] of Object.entries(optionTable)) {
      const start = text.indexOf(` --${typedName(name as OptionName)} ${option.kind.label} `);
      expect(start, name).toBeGreaterThan(0);
      expect(text.slice(start)).toContain('Default: ');
      covered++;
    }
    expect(covered).toBeGreaterThan(40);
    expect(text).toContain('Longest example; longer ones are cut. Unit: tokens. Default: 1024 (embedded model: 256).');
    expect(text).toContain('Default: steps. Also: --eval_strategy.');
    expect(text).toContain('Default: 1e-5 (embedded model: 0.002, lomo: 0.03, adalomo: 5e-4).');
  });

  it('fits a terminal of 80 columns', () => {
    expect(
      Math.max(
        ...helpText()
          .split('\n')
          .map((line) => line.length),
      ),
    ).toBeLessThanOrEqual(80);
  });
});
