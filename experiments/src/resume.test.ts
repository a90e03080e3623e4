import { cpSync, existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  command,
  filesOf,
  interruptedIn,
  logReaches,
  readRecord,
  scratch,
  startCommand,
  words,
} from './command-run.test-support.ts';

/** Every source of chance at once: a random order of blocks, stochastic rounding, shuffled batches, accumulation. */
const badam = words(
  '--max_steps 16 --save_steps 4 --eval_steps 3 --logging_steps 1 --switch_block_every 3 --include_embedding',
  '--include_lm_head --stochastic_rounding --max_grad_norm 0.5 --warmup_ratio 0.2 --gradient_accumulation_steps 2',
  '--cutoff_len 48 --max_samples 40 --val_size 8 --per_device_train_batch_size 2 --seed 7',
);

/** Files of a run whose last checkpoint is its only one that both ways of getting there must have. */
const results = /^(?!checkpoint-)|^checkpoint-12\//;

beforeAll(async () => {
  const { code, stderr } = await command(...badam, '--output_dir', scratch('whole'));
  expect(stderr).toBe('');
  expect(code).toBe(0);
});

const expectSameAsWhole = (name: string) => {
  const [whole, found] = [filesOf(scratch('whole'), results), filesOf(scratch(name), results)];
  expect([...found.keys()]).toEqual([...whole.keys()]);
  expect(found.size).toBeGreaterThanOrEqual(14);
  for (const [path, contents] of whole) expect(found.get(path), path).toEqual(contents);
};

describe('a run with one seed', () => {
  it('leaves identical files in another process', async () => {
    const { code } = await startCommand(...badam, '--output_dir', scratch('again')).ended;
    expect(code).toBe(0);
    expectSameAsWhole('again');
    expect(
      readdirSync(scratch('again'))
        .filter((name) => name.startsWith('checkpoint'))
        .sort(),
    ).toEqual(['checkpoint-12', 'checkpoint-4', 'checkpoint-8']);
  });

  it('leaves other files with another seed', async () => {
    await command(...badam, '--seed', '8', '--output_dir', scratch('other'));
    const [whole, other] = [filesOf(scratch('whole')), filesOf(scratch('other'))];
    for (const path of ['loss.csv', 'model/model.safetensors']) expect(other.get(path)).not.toEqual(whole.get(path));
  });
});

describe('a killed run', () => {
  it('goes on from its last checkpoint as if nothing had happened, whatever half a checkpoint was left', async () => {
    const folder = scratch('killed');
    const { child, ended } = startCommand(...badam, '--output_dir', folder);
    await logReaches(folder, 8); // step 6 or 7 of 16, with validations between: beyond checkpoint-4
    child.kill('SIGKILL');
    expect((await ended).signal).toBe('SIGKILL');
    const { model, data, versions } = readRecord(scratch('whole'));
    expect(readRecord(folder)).toMatchObject({ status: 'running', model, data, versions });
    expect(existsSync(scratch('killed', 'checkpoint-4/trainer_state.json'))).toBe(true);
    mkdirSync(scratch('killed', 'checkpoint-99.partial'), { recursive: true });
    writeFileSync(scratch('killed', 'checkpoint-99.partial/trainer_state.json'), '{"vers');

    const { code, stdout } = await command(...badam, '--output_dir', folder, '--resume_from_checkpoint', 'latest');
    expect(code).toBe(0);
    expect(stdout).toMatch(/going on from .*checkpoint-(4|8|12)\n/);
    expect(existsSync(scratch('killed', 'checkpoint-99.partial'))).toBe(false);
    expectSameAsWhole('killed');
  });

  it('begins again where it was killed before its first checkpoint', async () => {
    mkdirSync(scratch('early', 'checkpoint-4.partial'), { recursive: true });
    writeFileSync(scratch('early', '.running'), '999999999');
    const running = { ...readRecord(scratch('whole')), status: 'running', steps: [] };
    writeFileSync(scratch('early', 'run.json'), JSON.stringify(running));
    mkdirSync(scratch('early', 'tensorboard'));
    writeFileSync(scratch('early', 'tensorboard/events.out.tfevents.1.killed.1.1'), '');
    const { code, stdout } = await command(...badam, '--output_dir', scratch('early'), '--resume_from_checkpoint');
    expect(code).toBe(0);
    expect(stdout).toContain(`no checkpoint in ${scratch('early')} yet: starting from the beginning`);
    expectSameAsWhole('early');
    expect(readdirSync(scratch('early', 'tensorboard'))).toEqual([expect.not.stringContaining('killed')]);
  });
});

describe('an interrupted run', () => {
  // 1: the first step; 4: a checkpoint is due anyway; 6: a block ends and a validation is due.
  it.each([1, 4, 6])('interrupted in step %i and resumed equals one that was not', async (step) => {
    const name = `interrupted-${step}`;
    const { interrupted } = await interruptedIn(step, ...badam, '--output_dir', scratch(name));
    expect(interrupted).toBe(true);
    expect(readRecord(scratch(name))).toMatchObject({ status: 'interrupted', error: null });
    expect(readRecord(scratch(name)).steps).toHaveLength(step);
    expect(existsSync(scratch(name, 'model'))).toBe(false);
    const { code } = await command(...badam, '--output_dir', scratch(name), '--resume_from_checkpoint=latest');
    expect(code).toBe(0);
    expectSameAsWhole(name);
  });

  it('finishes its step on Ctrl-C, saves a checkpoint, says so and exits with 130', async () => {
    const folder = scratch('ctrl-c');
    const { child, ended } = startCommand(...badam, '--output_dir', folder);
    await logReaches(folder, 5);
    // nx and npm hand the terminal's signal on: the process gets it more than once.
    child.kill('SIGINT');
    child.kill('SIGINT');
    const { code, stderr } = await ended;
    expect(stderr).toBe('\nstopping as soon as all that was trained is saved; once more to stop at once\n');
    expect(code).toBe(130);
    const { status, steps } = readRecord(folder);
    expect(status).toBe('interrupted');
    expect(existsSync(scratch('ctrl-c', `checkpoint-${steps.length}`))).toBe(true);
    expect(existsSync(scratch('ctrl-c', '.running'))).toBe(false);
    await command(...badam, '--output_dir', folder, '--resume_from_checkpoint', 'latest');
    expectSameAsWhole('ctrl-c');
  });

  it('logs the mean loss over the steps before the interruption too', async () => {
    const seldom = [...badam, '--max_steps', '5', '--logging_steps', '4', '--output_dir'];
    await command(...seldom, scratch('seldom'));
    await interruptedIn(1, ...seldom, scratch('seldom-parted'));
    await command(...seldom, scratch('seldom-parted'), '--resume_from_checkpoint', 'latest');
    const logOf = (name: string) => filesOf(scratch(name), /log\.jsonl$/).get('log.jsonl');
    expect(logOf('seldom-parted')).toEqual(logOf('seldom'));
    const steps = (logOf('seldom') as { step: number; loss?: number }[]).filter(({ loss }) => loss !== undefined);
    const [one, two, three, four, five] = readRecord(scratch('seldom')).steps.map(({ loss }) => loss!);
    expect(steps).toMatchObject([
      { step: 4, loss: expect.closeTo((one! + two! + three! + four!) / 4, 12) as number },
      { step: 5, loss: five },
    ]);
  });

  it('may recompute what it kept before: the weights and losses are the same bits', async () => {
    cpSync(scratch('whole', 'checkpoint-8'), scratch('leaner', 'checkpoint-8'), { recursive: true });
    const leaner = [...badam, '--output_dir', scratch('leaner'), '--gradient_checkpointing', '--no_plot_loss'];
    expect((await command(...leaner, '--resume_from_checkpoint', 'latest')).code).toBe(0);
    const [whole, found] = [filesOf(scratch('whole')), filesOf(scratch('leaner'))];
    for (const path of ['loss.csv', 'model/model.safetensors']) expect(found.get(path), path).toEqual(whole.get(path));
  });

  it('goes on from a checkpoint that is named, in the folder it lies in or in another', async () => {
    cpSync(scratch('whole', 'checkpoint-8'), scratch('named', 'checkpoint-8'), { recursive: true });
    const { code } = await command(...badam, '--resume_from_checkpoint', scratch('named', 'checkpoint-8'));
    expect(code).toBe(0);
    for (const path of ['loss.csv', 'loss.png', 'model/model.safetensors', 'run.json'])
      expect(filesOf(scratch('named')).get(path), path).toEqual(filesOf(scratch('whole')).get(path));
  });
});

describe.each([
  ['all parameters, AdamW, float32, grouped by length', '--finetuning_type full --no_bf16 --group_by_length'],
  ['all parameters, SGD, packed', '--finetuning_type full --optim sgd --learning_rate 0.05 --packing'],
  ['the official quirks, descending matrices', '--compat official --block_partition matrix --switch_mode descending'],
])('%s', (name, options) => {
  it('resumed equals uninterrupted', async () => {
    const typed = words(
      '--max_steps 6 --save_steps 0 --logging_steps 1 --switch_block_every 2 --cutoff_len 48',
      options,
    );
    const rest = words('--max_samples 40 --val_size 8 --per_device_train_batch_size 2 --eval_steps 4 --no_plot_loss');
    const [whole, parted] = [scratch(`${name} whole`), scratch(`${name} parted`)];
    expect((await command(...typed, ...rest, '--output_dir', whole)).code).toBe(0);
    await interruptedIn(3, ...typed, ...rest, '--output_dir', parted);
    const { code } = await command(...typed, ...rest, '--output_dir', parted, '--resume_from_checkpoint', 'latest');
    expect(code).toBe(0);
    const only = /^(?!checkpoint-)/;
    expect(filesOf(parted, only)).toEqual(filesOf(whole, only));
  });
});
