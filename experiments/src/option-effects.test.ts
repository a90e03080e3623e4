import { initTensorFlow } from '@blockwise/tensorflow';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { command, filesOf, readRecord, scratch, small, words } from './command-run.test-support.ts';
import { embedded } from './embedded.ts';
import { methods } from './methods.ts';
import { optionTable, resolveOptions } from './options.ts';

/** Options that the tests below show to reach what they name, or that other tests do. */
const shown = new Set<string>([
  // errors.test.ts: another model, dataset, folder, checkpoint; resume.test.ts: seeds, resuming
  ...['modelNameOrPath', 'dataset', 'outputDir', 'overwriteOutputDir', 'resumeFromCheckpoint'],
  // No GPU here: packages/tensorflow has the test of a GPU that is missing.
  'device',
]);

let runs = 0;
/** Runs the small command with more options, and reads what it left. */
async function run(options = '') {
  for (const [, name] of options.matchAll(/--(?:no_)?([a-z0-9_]+)/g))
    shown.add(name.replaceAll(/_(\w)/g, (_, letter: string) => letter.toUpperCase()));
  const folder = scratch(`run-${++runs}`);
  const typed = options === '' ? small : [...small, ...words(options)];
  const result = await command(...typed, '--output_dir', folder);
  expect(result.stderr.replaceAll(/^warning: .*\n/gm, '')).toBe('');
  expect(result.code).toBe(0);
  const record = readRecord(folder);
  const weights = filesOf(folder).get('model/model.safetensors');
  return { ...result, folder, record, weights, losses: record.steps.map(({ loss }) => loss) };
}

let plain: Awaited<ReturnType<typeof run>>;
beforeAll(async () => {
  plain = await run();
});

describe('length of training', () => {
  it('num_train_epochs may be a fraction: 32 examples in batches of 2 are 16 steps an epoch', async () => {
    const { record } = await run('--max_steps -1 --num_train_epochs 0.3');
    expect(record.steps).toHaveLength(5); // ceil(4.8)
    expect(record.steps.at(-1)!.epoch).toBeCloseTo(5 / 16, 12);
  });

  it('an epoch ends with a shorter step where accumulation does not divide it', async () => {
    const { record } = await run('--max_steps -1 --num_train_epochs 2 --gradient_accumulation_steps 12');
    expect(record.steps.map(({ epoch }) => epoch)).toEqual([0.75, 1, 1.75, 2]);
  });

  it('per_device_train_batch_size and max_samples count examples', async () => {
    const { record } = await run('--max_samples 20 --val_size 0.1 --per_device_train_batch_size 3 --max_steps 6');
    expect(record.data).toMatchObject({ examples: 20, trainExamples: 18, validationExamples: 2 });
    expect(record.steps.at(-1)!.epoch).toBe(1);
  });

  it('do_train false only evaluates: no step, no model, the validation loss of the model as it is', async () => {
    const { record, folder } = await run('--do_train false');
    expect(record.steps).toEqual([]);
    expect(record.validation).toEqual([plain.record.validation[0]]);
    expect(existsSync(join(folder, 'model'))).toBe(false);
    expect(record.samples[0].after).toBe(record.samples[0].before);
  });

  it('do_predict false leaves the answers out, and changes nothing else', async () => {
    const { record, weights } = await run('--do_predict false');
    expect(plain.record.samples).toHaveLength(3);
    expect(record.samples).toEqual([]);
    expect(weights).toBe(plain.weights);
  });
});

it('streamed weights change no bit of the result', async () => {
  const { losses, weights, record } = await run('--streamed');
  expect(record.config.streamed).toBe(true);
  expect(losses).toEqual(plain.losses);
  expect(weights).toEqual(plain.weights);
});

describe('the learning rate', () => {
  it.each([
    ['--lr_scheduler_type cosine', [1, 0.8536, 0.5, 0.1464]],
    ['--lr_scheduler_type constant_with_warmup --warmup_ratio 0.4', [0, 0.5, 1, 1]], // ceil(1.6) steps
    ['--lr_scheduler_type linear --warmup_steps 3 --warmup_ratio 0.9', [0, 1 / 3, 2 / 3, 1]],
  ])('follows %s', async (options, factors) => {
    const { record } = await run(`${options} --learning_rate 0.01`);
    record.steps.forEach(({ learningRate }, i) => expect(learningRate / 0.01).toBeCloseTo(factors[i], 4));
  });
});

describe('the method', () => {
  it.each([
    ['--switch_mode ascending --switch_block_every 1', [0, 1, 2, 3]],
    ['--switch_mode descending --switch_block_every 1', [3, 2, 1, 0]],
    ['--switch_mode ascending --switch_block_every 2 --start_block 1', [1, 1, 2, 2]],
    ['--switch_mode fixed --start_block 2', [2, 2, 2, 2]],
    // The first block gets a step less, so that of two steps one is left.
    ['--switch_mode ascending --switch_block_every 2 --compat official', [0, 1, 1, 2]],
    ['--finetuning_type full', [null, null, null, null]],
  ])('%s trains blocks %j', async (options, blocks) => {
    const { record } = await run(options);
    expect(record.steps.map(({ block }) => block)).toEqual(blocks);
  });

  it('auto for switch_block_every is 50 on so little data', async () => {
    const { stdout } = await run('--switch_block_every auto');
    expect(stdout).toContain('K = 50 steps');
  });

  it.each([
    ['--block_partition attention_mlp', 8],
    ['--block_partition matrix', 28],
    ['--include_embedding --include_lm_head', 6], // the final norm is all that the tied head has of its own
  ])('%s makes %i blocks', async (options, blocks) => {
    expect((await run(`${options} --max_steps 1`)).record.model.blocks).toBe(blocks);
  });
});

describe('the update', () => {
  it.each([
    '--optim sgd',
    '--adam_beta1 0.5',
    '--adam_beta2 0.9',
    '--adam_epsilon 0.1',
    '--weight_decay 0.9',
    '--max_grad_norm 0.001 --optim sgd --learning_rate 1',
    '--no_bf16 --switch_block_every 1',
    '--compute_dtype bfloat16',
    '--seed 5',
    '--packing',
    '--group_by_length --per_device_train_batch_size 4',
    '--template vanilla',
    '--cutoff_len 40',
    '--gradient_accumulation_steps 2',
  ])('depends on %s', async (options) => {
    const { losses, weights } = await run(options);
    expect(losses.slice(1)).not.toEqual(plain.losses.slice(1));
    expect(weights).not.toEqual(plain.weights);
  });

  it('max_grad_norm scales gradients down and records their norm before; 0 does neither', async () => {
    const sgd = '--optim sgd --learning_rate 0.5 --lr_scheduler_type constant --weight_decay 0 --no_bf16';
    const clipped = await run(`${sgd} --max_grad_norm 0.01`);
    const free = await run(`${sgd} --max_grad_norm 0`);
    expect(clipped.record.steps[0].gradNorm).toBeGreaterThan(0.01);
    expect(free.record.steps.map(({ gradNorm }) => gradNorm)).toEqual([null, null, null, null]);
    expect(clipped.losses[0]).toBe(free.losses[0]);
    expect(clipped.losses[1]).not.toBe(free.losses[1]);
  });

  it('stochastic_rounding changes what a block leaves behind', async () => {
    const [random, nearest] = [
      await run('--stochastic_rounding --switch_block_every 1'),
      await run('--switch_block_every 1'),
    ];
    expect(random.losses[0]).toBe(nearest.losses[0]);
    expect(random.weights).not.toEqual(nearest.weights);
  });

  it('packing fills rows: fewer of them, no more padding than they leave', async () => {
    const { record, stdout } = await run('--packing --max_steps -1 --num_train_epochs 1 --cutoff_len 256');
    const unpacked = await run('--max_steps -1 --num_train_epochs 1 --cutoff_len 256');
    expect(record.steps.length).toBeLessThan(unpacked.record.steps.length);
    const tokens = ({ steps }: typeof record) => steps.reduce((sum, step) => sum + step.tokens, 0);
    expect(tokens(record)).toBe(tokens(unpacked.record));
    expect(stdout).toContain('row lengths 256');
  });

  it('gradient_checkpointing keeps less for the backward pass and gives the same losses', async () => {
    const [recomputed, kept] = [await run('--gradient_checkpointing'), await run('--gradient_checkpointing false')];
    const activations = ({ record }: typeof kept) => record.memory.measured.activations!;
    expect(activations(recomputed)).toBeLessThan(activations(kept));
    recomputed.losses.forEach((loss, i) => expect(loss).toBeCloseTo(kept.losses[i]!, 4));
  });

  it('stage pt learns plain text', async () => {
    const { record } = await run(`--stage pt --dataset ${textDataset()}`);
    expect(record.data.labelTokens).toBe(48 * record.data.trainExamples);
  });
});

function textDataset(): string {
  const path = scratch('texts.jsonl');
  const line = JSON.stringify({ text: 'Once upon a time there was a frog. It had four legs. '.repeat(40) });
  writeFileSync(path, `${line}\n`.repeat(8));
  return path;
}

describe('the options of a method', () => {
  const types = new Map<string, Awaited<ReturnType<typeof run>>>();
  /** What the method leaves with its defaults, run once. */
  const standard = async (type: string) => {
    if (!types.has(type)) types.set(type, await run(typed(type)));
    return types.get(type)!;
  };
  const typed = (type: string, ...more: string[]) =>
    [`--finetuning_type ${type}`, ...(common[type] ?? []), ...more].join(' ');
  const common: Record<string, string[]> = { sparse: ['--switch_block_every 1'], galore: ['--galore_rank 4'] };
  const left = ({ folder }: { folder: string }) => [...filesOf(folder, /^model\//)];
  it.each([
    ['full', '--optim adam'],
    ['full', '--optim adam_mini'],
    ['full', '--use_adam_mini'],
    ['full', '--optim sgd --momentum 0.5'],
    ['full', '--optim sgd --momentum 0.5 --dampening 0.5'],
    ['full', '--optim sgd --momentum 0.5 --nesterov'],
    ['full', '--pure_bf16'],
    ['full', '--clip_grad_value 1e-6 --optim sgd'],
    ['full', '--use_badam --badam_mode ratio'],
    ['full', '--use_galore'],
    ['freeze', '--freeze_trainable_layers -1'],
    ['freeze', '--freeze_trainable_modules mlp'],
    ['freeze', '--freeze_extra_modules norm'],
    ['lora', '--lora_rank 4'],
    ['lora', '--lora_alpha 3'],
    ['lora', '--lora_dropout 0.5'],
    ['lora', '--lora_target q_proj'],
    ['lora', '--additional_target norm'],
    ['lora', '--lora_bias all'],
    ['lora', '--use_rslora'],
    ['lora', '--use_badam'],
    ['lora', '--lora_only false'],
    ['lora', '--lora_only false --lomo_learning_rate 1'],
    ['lora', '--quantization_bit 4'],
    ['qlora', '--double_quantization false'],
    ['sparse', '--update_ratio 0.5'],
    ['sparse', '--mask_mode scatter'],
    ['sparse', '--mask_mode scatter --keep_mask false'],
    ['sparse', '--preserve_threshold 100000'],
    ['lomo', '--fp16'],
    ['galore', '--galore_rank 8'],
    ['galore', '--galore_update_interval 1'],
    ['galore', '--galore_scale 1'],
    ['galore', '--galore_proj_type reverse_std'],
    ['galore', '--galore_target q_proj'],
    ['galore', '--galore_target mlp,self_attn.o_proj'],
  ])('%s: %s changes what is left', async (type, options) => {
    const changed = await run(typed(type, options));
    expect(left(changed)).not.toEqual(left(await standard(type)));
  });

  it('additional_target trains in every turn of a block', async () => {
    const options = resolveOptions({ finetuningType: 'lora', useBadam: true, additionalTarget: ['norm'] });
    await initTensorFlow();
    const opened = methods.lora.open(options, embedded.model);
    const { optimizer, blocks } = methods.lora.optimizer(options, opened, 1);
    expect(blocks!.blocks.length).toBeGreaterThan(1);
    expect([...optimizer.trainable].filter((name) => name.endsWith('.norm.weight'))).toHaveLength(1);
    expect(blocks!.blocks.flatMap(({ names }) => names).filter((name) => name.endsWith('.norm.weight'))).toEqual([]);
    optimizer.dispose();
    opened.model.dispose();
  });

  it('dataset_dir says what a name of its dataset_info.json is, and what its columns are called', async () => {
    const folder = scratch('described');
    mkdirSync(folder, { recursive: true });
    const records = Array.from({ length: 12 }, (_, i) => ({ question: `What is ${i}?`, answer: `A number, ${i}.` }));
    writeFileSync(join(folder, 'numbers.json'), JSON.stringify(records));
    const info = { numbers: { file_name: 'numbers.json', columns: { prompt: 'question', response: 'answer' } } };
    writeFileSync(join(folder, 'dataset_info.json'), JSON.stringify(info));
    const { record } = await run(`--dataset_dir ${folder} --dataset numbers --val_size 2`);
    expect(record.data).toMatchObject({ path: join(folder, 'numbers.json'), trainExamples: 10, validationExamples: 2 });
  });

  it('export_dir holds the model with the adapters merged, which answers as the adapters beside it do', async () => {
    const merged = scratch('merged');
    const { record } = await run(`--finetuning_type lora --learning_rate 0.02 --export_dir ${merged} --no_bf16`);
    const again = await run(
      `--model_name_or_path ${merged} --template alpaca --no_bf16 --do_train false --cutoff_len 48`,
    );
    expect(again.record.validation[0].loss).toBeCloseTo(record.validation.at(-1)!.loss!, 4);
    expect(again.record.samples.map(({ before }) => before)).toEqual(record.samples.map(({ after }) => after));
  });
});

it.each([
  ['lora', ''],
  ['lora', '--lora_only false'],
  ['qlora', ''],
])(
  'adapter_name_or_path: %s %s goes on where the adapter ended, in its shape, and exports it as its own run did',
  async (type, more) => {
    const typed = `--finetuning_type ${type} --no_bf16 ${more}`.trim();
    const merged = (name: string) => scratch(`${type}${more} ${name}`.replaceAll(' ', '-'));
    const first = await run(`${typed} --lora_rank 3 --learning_rate 0.02 --export_dir ${merged('first')}`);
    const weights = more ? `--model_name_or_path ${join(first.folder, 'model')} --template alpaca ` : '';
    const from = `${typed} ${weights}--adapter_name_or_path ${join(first.folder, 'model')}`;
    const { record } = await run(`${from} --do_train false --export_dir ${merged('again')} --cutoff_len 48`);
    expect(record.validation).toEqual([{ ...first.record.validation.at(-1)!, step: 0 }]);
    const file = (name: string) => readFileSync(join(merged(name), 'model.safetensors'));
    expect(file('again').equals(file('first'))).toBe(true);

    const next = await run(`${from} --lora_rank 5`);
    expect(next.stderr).toContain('--lora_rank: without effect with --adapter_name_or_path');
    const config = JSON.parse(readFileSync(join(next.folder, 'model/adapter_config.json'), 'utf8')) as { r: number };
    expect(config.r).toBe(3);
    expect(next.record.validation[0].loss).toBe(first.record.validation.at(-1)!.loss);
    expect(next.record.validation.at(-1)!.loss).not.toBe(first.record.validation.at(-1)!.loss);
  },
);

describe('evaluation', () => {
  const at = async (options: string) => (await run(options)).record.validation.map(({ step }) => step);
  it.each([
    ['--evaluation_strategy no', []],
    ['--evaluation_strategy steps --eval_steps 3', [0, 3, 4]],
    ['--eval_steps 0.3', [0, 2, 4]], // ceil(1.2) of 4, as in transformers
    ['--eval_strategy epoch --per_device_train_batch_size 16', [0, 2, 4]],
    ['--val_size 0', []],
  ])('%s: after steps %j', async (options, steps) => expect(await at(options)).toEqual(steps));

  it('per_device_eval_batch_size does not change the mean over labels', async () => {
    const { record } = await run('--per_device_eval_batch_size 3');
    record.validation.forEach(({ loss }, i) => expect(loss).toBeCloseTo(plain.record.validation[i].loss!, 4));
  });
});

describe('output', () => {
  const checkpoints = (folder: string) =>
    readdirSync(folder)
      .filter((name) => name.startsWith('checkpoint-'))
      .sort();

  it('save_steps: none at 0, else every so many, the last step being the model itself', async () => {
    expect(checkpoints((await run('--save_steps 0')).folder)).toEqual([]);
    expect(checkpoints((await run('--save_steps 1')).folder)).toEqual(['checkpoint-1', 'checkpoint-2', 'checkpoint-3']);
    expect(checkpoints((await run('--save_steps 0.75')).folder)).toEqual(['checkpoint-3']);
  });

  it.each(['3', '0.6'])('logging_steps %s: lines of the log and of the progress, and the last step', async (steps) => {
    const { folder, stdout } = await run(`--logging_steps ${steps} --evaluation_strategy no`);
    const log = readFileSync(join(folder, 'log.jsonl'), 'utf8').trim().split('\n');
    expect(log.map((line) => (JSON.parse(line) as { step: number }).step)).toEqual([3, 4]);
    expect(stdout.match(/^step \d+\/4 \|/gm)).toEqual(['step 1/4 |', 'step 3/4 |', 'step 4/4 |']);
  });

  it.each([
    ['none', false, false],
    ['tensorboard', false, true],
    ['all', true, true],
  ])('report_to %s', async (value, jsonl, tensorboard) => {
    const { folder } = await run(`--report_to ${value} --max_steps 1`);
    expect([existsSync(join(folder, 'log.jsonl')), existsSync(join(folder, 'tensorboard'))]).toEqual([
      jsonl,
      tensorboard,
    ]);
  });

  it('plot_loss draws loss.png', async () => {
    expect(existsSync(join(plain.folder, 'loss.png'))).toBe(false);
    expect(
      readFileSync(join((await run('--plot_loss')).folder, 'loss.png'))
        .subarray(1, 4)
        .toString(),
    ).toBe('PNG');
    // A run of no step has a chart too.
    expect(existsSync(join((await run('--plot_loss --do_train false')).folder, 'loss.png'))).toBe(true);
  });

  it('cache_dir and overwrite_cache: tokenised once, and again when asked', async () => {
    const cache = `--cache_dir ${scratch('cache')} --max_steps 1`;
    const file = () => {
      const folder = scratch('cache', 'tokenised');
      const [name, ...others] = readdirSync(folder);
      expect(others).toEqual([]);
      return statSync(join(folder, name)).mtimeMs;
    };
    const [first, made] = [await run(cache), file()];
    const [second, kept] = [await run(cache), file()];
    const [third, remade] = [await run(`${cache} --overwrite_cache`), file()];
    expect([first, second, third].map(({ stdout }) => stdout.includes('tokenised before'))).toEqual([
      false,
      true,
      false,
    ]);
    expect(kept).toBe(made);
    expect(remade).toBeGreaterThan(made);
    expect(third.losses).toEqual(first.losses);
  });

  it('overwrite_output_dir removes what the earlier run left, and nothing else', async () => {
    const { folder } = await run('--save_steps 1 --plot_loss --report_to all');
    writeFileSync(join(folder, 'notes.txt'), 'mine');
    const { code } = await command(
      ...[...small, '--overwrite_output_dir', '--output_dir', folder, '--report_to', 'none', '--save_steps', '0'],
    );
    expect(code).toBe(0);
    expect(readdirSync(folder).sort()).toEqual(['loss.csv', 'memory.md', 'model', 'notes.txt', 'run.json']);
  });
});

it('every option is shown to reach what it names', () => {
  console.log(`${Object.keys(optionTable).length} options, ${runs} runs`);
  expect(Object.keys(optionTable).filter((name) => !shown.has(name) && name !== 'evaluationStrategy')).toEqual([]);
});
