import { readdirSync } from 'node:fs';
import { expect, describe, it } from 'vitest';
import { command, filesOf, interruptedIn, readRecord, scratch, words } from './command-run.test-support.ts';
import { finetuningTypes } from './option.ts';

/** Eight steps on the embedded model; every method learns with its own learning rate. */
const few = words(
  '--max_steps 8 --save_steps 0 --logging_steps 1 --cutoff_len 48 --max_samples 40 --val_size 8 --eval_steps 4',
  '--per_device_train_batch_size 4 --per_device_eval_batch_size 8 --lr_scheduler_type constant --no_plot_loss --report_to none',
);
/** The method's part of what a run leaves. */
const adapter = ['adapter_config.json', 'adapter_model.safetensors'];
const llama = ['config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json'];

const methods: [options: string, model: string[]][] = [
  ['block --switch_block_every 3', llama],
  ['full', llama],
  ['full --optim adam', llama],
  ['full --optim sgd --momentum 0.9 --nesterov --learning_rate 0.02', llama],
  ['full --optim adamw_8bit', llama],
  ['full --use_adam_mini', llama],
  ['full --pure_bf16 --stochastic_rounding', llama],
  ['freeze --freeze_trainable_layers 1 --freeze_trainable_modules mlp --freeze_extra_modules norm', llama],
  ['lora --lora_dropout 0.1 --use_adam_mini', adapter],
  ['lora --use_badam --switch_block_every 3 --lora_target q_proj,v_proj --use_rslora', adapter],
  ['lora --use_badam --switch_block_every 3 --additional_target norm', adapter],
  ['lora --lora_only false --lomo_learning_rate 0.05', [...llama, ...adapter]],
  ['qlora', adapter],
  ['sparse --switch_block_every 3 --update_ratio 0.3', llama],
  ['lomo --max_grad_norm 1 --gradient_accumulation_steps 2', llama],
  ['adalomo --fp16', llama],
  ['galore --galore_rank 8 --galore_update_interval 3', llama],
  ['bitnet', llama],
];

describe.each(methods)('--finetuning_type %s', (options, model) => {
  it('learns, leaves what it trained, and resumed equals uninterrupted', async () => {
    const typed = [...few, ...words(`--finetuning_type ${options}`)];
    const [whole, parted] = [scratch(`${options} whole`), scratch(`${options} parted`)];
    const { stderr, code } = await command(...typed, '--output_dir', whole);
    expect(stderr).toBe('');
    expect(code).toBe(0);
    const { validation, memory } = readRecord(whole);
    expect(validation.map(({ step }) => step)).toEqual([0, 4, 8]);
    expect(validation[2].loss).toBeLessThan(validation[0].loss!);
    expect(memory.measured.peak).toBeGreaterThan(0);
    expect(readdirSync(`${whole}/model`).sort()).toEqual([...model].sort());

    await interruptedIn(5, ...typed, '--output_dir', parted);
    const again = await command(...typed, '--output_dir', parted, '--resume_from_checkpoint', 'latest');
    expect(again.stderr).toBe('');
    const only = /^(?!checkpoint-)/;
    expect(filesOf(parted, only)).toEqual(filesOf(whole, only));
  });
});

it('every method has a test', () => {
  const tested = new Set(methods.map(([options]) => options.split(' ')[0]));
  expect([...tested].sort()).toEqual([...finetuningTypes].sort());
});
