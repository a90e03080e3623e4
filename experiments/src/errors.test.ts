import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { command, logReaches, readRecord, scratch, small, startCommand, words } from './command-run.test-support.ts';
import { embedded } from './embedded.ts';

/** An earlier run with a checkpoint, whose files no mistake may cost. */
const earlier = scratch('earlier');
const checkpoint = join(earlier, 'checkpoint-2');
const finished = [...small, '--save_steps', '2', '--output_dir', earlier];

beforeAll(async () => expect((await command(...finished)).code).toBe(0));

/** Path, size and time of change of every file below a folder. */
function fingerprint(folder: string): string[] {
  const names = readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort();
  return names.map((name) => {
    const { size, mtimeMs } = statSync(join(folder, name));
    return `${name} ${size} ${mtimeMs}`;
  });
}

/** The command fails with code 2 and `message` alone on stderr, and the earlier run is as it was. */
async function expectRefused(message: RegExp, ...typed: string[]) {
  const before = fingerprint(earlier);
  const { code, stderr } = await command(...small, '--output_dir', earlier, '--overwrite_output_dir', ...typed);
  expect(stderr).toMatch(/^(warning: .*\n)*error: /);
  expect(stderr).not.toMatch(/\n\s+at .*:\d+:\d+/);
  expect(stderr).toMatch(message);
  expect(code).toBe(2);
  expect(fingerprint(earlier)).toEqual(before);
}

/** A copy of the embedded model, changed. */
function brokenModel(name: string, change: (folder: string) => void): string[] {
  const folder = scratch('models', name);
  cpSync(embedded.model, folder, { recursive: true });
  change(folder);
  return ['--model_name_or_path', folder, '--template', 'alpaca'];
}

function dataset(name: string, content: string | Uint8Array): string[] {
  mkdirSync(scratch('data'), { recursive: true });
  writeFileSync(scratch('data', name), content);
  return ['--dataset', scratch('data', name)];
}

const editConfig = (change: (config: Record<string, unknown>) => void) => (folder: string) => {
  const path = join(folder, 'config.json');
  const config = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
  change(config);
  writeFileSync(path, JSON.stringify(config));
};

describe('a model that cannot be used', () => {
  it('at a wrong path: names it and what lies near', () =>
    expectRefused(
      /no folder .*datasets\/embedded\/modle.*Did you mean .*embedded\/model/s,
      '--model_name_or_path',
      `${embedded.model.replace(/model$/, 'modle')}`,
    ));

  it('that is a file', () =>
    expectRefused(
      /config\.json is a file; expected a folder/,
      '--model_name_or_path',
      join(embedded.model, 'config.json'),
    ));

  it('without weights', () =>
    expectRefused(
      /no-weights: no weights; expected model\.safetensors/,
      ...brokenModel('no-weights', (folder) => rmSync(join(folder, 'model.safetensors'))),
    ));

  it('without a tokenizer', () =>
    expectRefused(
      /no-tokenizer.*tokenizer\.json/,
      ...brokenModel('no-tokenizer', (folder) => rmSync(join(folder, 'tokenizer.json'))),
    ));

  it('whose weights are cut short', () =>
    expectRefused(
      /truncated\/model\.safetensors.*bytes/s,
      ...brokenModel('truncated', (folder) => truncateSync(join(folder, 'model.safetensors'), 500_000)),
    ));

  it('whose weights are no safetensors', () =>
    expectRefused(
      /garbage\/model\.safetensors/,
      ...brokenModel('garbage', (folder) => writeFileSync(join(folder, 'model.safetensors'), Buffer.alloc(1000, 7))),
    ));

  it('whose weights have other shapes than config.json says: all by name', () =>
    expectRefused(
      /shapes: the weights do not fit config\.json.*mlp\.gate_proj\.weight: found shape \[\d+, \d+\], expected \[\d+, \d+\].*mlp\.down_proj\.weight: found shape/s,
      ...brokenModel(
        'shapes',
        editConfig((config) => (config.intermediate_size = Number(config.intermediate_size) + 8)),
      ),
    ));

  it('whose config.json holds nonsense: all problems at once', () =>
    expectRefused(
      /config\/config\.json: 2 problems.*num_hidden_layers: found "four".*rms_norm_eps: found "small"/s,
      ...brokenModel(
        'config',
        editConfig((config) => {
          config.rms_norm_eps = 'small';
          config.num_hidden_layers = 'four';
        }),
      ),
    ));

  it('whose config.json is not JSON', () =>
    expectRefused(
      /no-json\/config\.json.*JSON/s,
      ...brokenModel('no-json', (folder) => writeFileSync(join(folder, 'config.json'), '{"hidden_size": ')),
    ));

  it('whose tokenizer.json is not JSON', () =>
    expectRefused(
      /bad-tokenizer\/tokenizer\.json/,
      ...brokenModel('bad-tokenizer', (folder) => writeFileSync(join(folder, 'tokenizer.json'), '{')),
    ));

  it('whose vocabulary lacks a token of the data', () =>
    expectRefused(
      /small-vocabulary: the tokenizer makes token \d{3,} \(".+"\) of the data, and the model has 100 \(vocab_size in config\.json\)/,
      ...brokenModel(
        'small-vocabulary',
        editConfig((config) => (config.vocab_size = 100)),
      ),
    ));
});

describe('data that cannot be used', () => {
  it('at a wrong path: names it and what lies near', () =>
    expectRefused(
      /no file .*instruction\.json.*Did you mean .*instructions\.json/s,
      '--dataset',
      embedded.dataset.replace('ions.json', 'ion.json'),
    ));
  it('that is unknown by name', () =>
    expectRefused(/dataset 'alpaca_gpt4_em' is unknown.*alpaca_gpt4_en/s, '--dataset', 'alpaca_gpt4_em'));
  it('without a record', () => expectRefused(/empty\.json: the dataset is empty/, ...dataset('empty.json', '[]')));
  it('without a byte', () => expectRefused(/nothing\.jsonl: the dataset is empty/, ...dataset('nothing.jsonl', '')));
  it('that is not JSON', () => expectRefused(/no\.json: not valid JSON/, ...dataset('no.json', 'instruction: none')));
  it('that is not JSON in a line', () =>
    expectRefused(
      /line\.jsonl.*line 2/s,
      ...dataset('line.jsonl', '{"instruction":"a","output":"b"}\n{"instruction":\n'),
    ));
  it('without answers to learn', () =>
    expectRefused(
      /records have an empty text to learn.*prompts only/s,
      ...dataset(
        'prompts.json',
        JSON.stringify([
          { instruction: 'a', output: '' },
          { instruction: 'b', output: ' ' },
        ]),
      ),
    ));
  it.each([
    ['without labels', 'found nothing', [{ instruction: 'a' }, { instruction: 'b' }]],
    ['with labels of the wrong type in some records', 'found number 3', [{ instruction: 'a', output: 'b' }, { instruction: 'b', output: 3 }]], // prettier-ignore
  ])('%s: names record and field', (_, found, records) =>
    expectRefused(new RegExp(`record 1, field "output": ${found}`), ...dataset('labels.json', JSON.stringify(records))),
  );
  it('of another shape', () =>
    expectRefused(/no known shape/, ...dataset('shape.json', '[{"question":"a","answer":"b"}]')));
  it('of which validation would take all', () =>
    expectRefused(/val_size: 40 holds out 40 of 40 examples/, '--val_size', '40'));
  it('for another stage', () => expectRefused(/holds conversations; stage pt needs/, '--stage', 'pt'));
  it('that the cutoff leaves nothing of', () =>
    expectRefused(/none of 40 records has a token to learn within cutoff_len 2/, '--cutoff_len', '2'));
});

describe('options that cannot be followed', () => {
  it('unknown flags, with near names, all at once', () =>
    expectRefused(
      /2 problems.*--lerning_rate: no such option; did you mean --learning_rate\?.*--colour: no such option/s,
      '--lerning_rate',
      '1',
      '--colour=red',
    ));
  it('an unknown template, with near names', () =>
    expectRefused(/--template: found "lama2", expected .*did you mean llama2\?/s, '--template', 'lama2'));
  it('frozen modules that the model does not have, all at once', () =>
    expectRefused(
      /--freeze_trainable_modules: the model has no attn; it has all, .*self_attn.*--freeze_extra_modules: the model has no head; it has/s,
      ...['--finetuning_type', 'freeze', '--freeze_trainable_modules', 'attn,mlp', '--freeze_extra_modules', 'head'],
    ));
  it('adapters for modules that the model does not have', () =>
    expectRefused(/query/, '--finetuning_type', 'lora', '--lora_target', 'query'));
  it('a start block that is none', () =>
    expectRefused(
      /startBlock is 9, expected 0 to 3, there being 4 blocks/,
      '--switch_mode',
      'fixed',
      '--start_block',
      '9',
    ));
  it('a template that the tokenizer has no tokens for', () =>
    expectRefused(/template: llama3 needs .*which the tokenizer of .* does not have/, '--template', 'llama3'));
  it('a chat template that the tokenizer does not have', () =>
    expectRefused(/template: the tokenizer of .* has no chat template/, '--template', 'tokenizer'));
});

describe('an output folder that cannot be used', () => {
  it('with files in it', async () => {
    const before = fingerprint(earlier);
    const { code, stderr } = await command(...finished);
    expect(stderr).toMatch(
      /--output_dir .*earlier is not empty \(checkpoint-2, log\.jsonl, loss\.csv, \.\.\.\): give another folder, --overwrite_output_dir, or --resume/,
    );
    expect(code).toBe(2);
    expect(fingerprint(earlier)).toEqual(before);
  });

  it('that is a file', async () => {
    const { code, stderr } = await command(...small, '--output_dir', join(earlier, 'run.json'));
    expect(stderr).toMatch(/^error: --output_dir .*run\.json: a file is in its place; give a folder/);
    expect(code).toBe(2);
  });

  it('in which what the run reads would be deleted: the model, a dataset', async () => {
    const model = join(earlier, 'model');
    await expectRefused(
      /--output_dir .*earlier: .* is deleted first, with .*earlier\/model, which this run reads: give another folder/,
      ...['--model_name_or_path', model, '--template', 'alpaca'],
    );
    const data = scratch('own-data', 'tensorboard/data.json');
    cpSync(embedded.dataset, data, { recursive: true });
    await expectRefused(
      /deleted first, with .*tensorboard\/data\.json/,
      ...['--dataset', data, '--output_dir', scratch('own-data')],
    );
    expect(existsSync(data)).toBe(true);
  });

  it('with a finished run that resuming does not go on from', async () => {
    const bare = scratch('bare');
    expect((await command(...small, '--output_dir', bare)).code).toBe(0);
    const before = fingerprint(bare);
    for (const from of ['latest', checkpoint]) {
      const { code, stderr } = await command(...small, '--output_dir', bare, '--resume_from_checkpoint', from);
      expect(stderr).toMatch(
        /^error: --output_dir .*bare holds a run that this one does not go on with \(model, run\.json\): give another folder, or --overwrite_output_dir in place of --resume/,
      );
      expect(code).toBe(2);
      expect(fingerprint(bare)).toEqual(before);
    }
  });

  it('with checkpoints of a run that was killed, where resuming goes on from another', async () => {
    const killed = scratch('killed', 'checkpoint-3');
    cpSync(checkpoint, killed, { recursive: true });
    const { code, stderr } = await command(
      ...[...small, '--output_dir', join(killed, '..'), '--resume_from_checkpoint', checkpoint],
    );
    expect(stderr).toMatch(/killed holds a run that this one does not go on with \(checkpoint-3\)/);
    expect(code).toBe(2);
  });

  it.each([
    ['is a file', ''],
    ['lies below a file', 'merged'],
  ])('for the export: it %s', (_, below) =>
    expectRefused(
      /^error: --export_dir .*run\.json.*: .*run\.json is a file; give a folder that can be written/,
      ...['--finetuning_type', 'lora', '--export_dir', join(earlier, 'run.json', below)],
    ),
  );

  it('for the export: what is read or kept otherwise is there', async () => {
    const lora = [...small, '--finetuning_type', 'lora', '--output_dir', scratch('lora')];
    const own = brokenModel('own', () => {});
    const [model, adapter] = [own[1], scratch('lora', 'model')];
    for (const folder of [model, `${model}/.`, adapter]) {
      const { code, stderr } = await command(...lora, ...own, '--export_dir', folder);
      expect(stderr).toMatch(/^error: --export_dir .*: this run keeps other files in .*: give another folder\n$/);
      expect(code).toBe(2);
    }
    expect(existsSync(scratch('lora'))).toBe(false);
  });

  it('in use by a live process, whether overwriting or going on', async () => {
    const folder = scratch('busy');
    const { child, ended } = startCommand(
      ...small,
      '--max_steps',
      '5000',
      '--evaluation_strategy',
      'no',
      '--output_dir',
      folder,
    );
    await logReaches(folder, 1);
    for (const how of ['--overwrite_output_dir', '--resume_from_checkpoint=latest']) {
      const { code, stderr } = await command(...small, '--output_dir', folder, how);
      expect(stderr).toMatch(
        new RegExp(`in use by process ${child.pid}, here or in another container: wait for it, or give another folder`),
      );
      expect(code).toBe(2);
    }
    child.kill('SIGINT');
    expect((await ended).code).toBe(130);
  });

  it('is left as it was found: a mistake makes no folder', async () => {
    const { code } = await command(...small, '--output_dir', scratch('new'), '--dataset', 'nowhere.json');
    expect(code).toBe(2);
    expect(existsSync(scratch('new'))).toBe(false);
  });
});

describe('a checkpoint that cannot be gone on from', () => {
  const copy = (name: string, change: (folder: string) => void) => {
    const folder = scratch(name, 'checkpoint-2');
    cpSync(checkpoint, folder, { recursive: true });
    change(folder);
    return folder;
  };
  const resume = async (message: RegExp, from: string, ...typed: string[]) => {
    const before = fingerprint(join(from, '..'));
    const { code, stderr } = await command(...small, '--resume_from_checkpoint', from, ...typed);
    expect(stderr).toMatch(message);
    expect(stderr).toMatch(/^error: /);
    expect(code).toBe(2);
    expect(fingerprint(join(from, '..'))).toEqual(before);
  };

  it('made with other settings: all differences', () =>
    resume(
      /continues another run:\n.*switch_mode was "random", now "ascending"\n.*per_device_train_batch_size was 2, now 4\n.*seed was 42, now 7\n.*learning_rate was 0\.002, now 0\.001/s,
      checkpoint,
      ...words('--seed 7 --learning_rate 1e-3 --switch_mode ascending --per_device_train_batch_size 4'),
    ));
  it('made by another method, in words about the method', () =>
    resume(
      /continues another run:\n.*finetuning_type was "block", now "lora"/s,
      checkpoint,
      '--finetuning_type',
      'lora',
    ));
  it('made with other data', () =>
    resume(/dataset_sha256 was .*train_examples was 32, now 31/s, checkpoint, '--max_samples', '39'));
  it('that is not there', () => resume(/no such folder/, join(earlier, 'checkpoint-3')));
  it('that is a model', () =>
    resume(/model: not a checkpoint \(it has no trainer_state\.json\)/, join(earlier, 'model')));
  it('of which latest cannot know the folder', async () => {
    const { code, stderr } = await command(...small, '--resume_from_checkpoint', 'latest');
    expect(stderr).toMatch(/latest needs --output_dir/);
    expect(code).toBe(2);
  });
  it.each<[string, (folder: string) => void, RegExp]>([
    [
      'trainer_state.json cut short',
      (folder) => truncateSync(join(folder, 'trainer_state.json'), 300),
      /trainer_state\.json is damaged \(.*\): resume from an older checkpoint/,
    ],
    [
      'trainer_state.json of transformers',
      (folder) => writeFileSync(join(folder, 'trainer_state.json'), '{"global_step": 2}'),
      /trainer_state\.json: version undefined, expected 1: it was made by another release, or by another program/,
    ],
    [
      'trainer_state.json null',
      (folder) => writeFileSync(join(folder, 'trainer_state.json'), 'null'),
      /trainer_state\.json is damaged \(.*expected a JSON object, found null\): resume from an older checkpoint/,
    ],
    [
      'trainer_state.json of brackets',
      (folder) =>
        writeFileSync(join(folder, 'trainer_state.json'), `{"version": ${'['.repeat(1e5)}${']'.repeat(1e5)}}`),
      /trainer_state\.json is damaged \(.*nests deeper than 100 brackets\)/,
    ],
    [
      'trainer_state.json without its parts',
      (folder) => writeFileSync(join(folder, 'trainer_state.json'), '{"version": 1, "step": 2}'),
      /is damaged \(fingerprint is not an object; data is not an object; optimizer is not an object; steps is not a record for each step; validation is not a list of records\)/,
    ],
    [
      'trainer_state.json with empty records',
      (folder) => {
        const path = join(folder, 'trainer_state.json');
        const state = JSON.parse(readFileSync(path, 'utf8')) as { steps: unknown[] };
        writeFileSync(path, JSON.stringify({ ...state, steps: state.steps.map(() => null) }));
      },
      /is damaged \(steps is not a record for each step\)/,
    ],
    [
      'optimizer.safetensors of another step',
      (folder) => {
        const path = join(folder, 'optimizer.safetensors');
        const bytes = readFileSync(path);
        const at = bytes.indexOf('"step":"2"');
        writeFileSync(path, bytes.fill('"step":"4"', at, at + 10));
      },
      /optimizer\.safetensors is of step 4, trainer_state\.json beside it of step 2: resume from another checkpoint/,
    ],
    [
      'optimizer.safetensors cut short',
      (folder) => truncateSync(join(folder, 'optimizer.safetensors'), 100_000),
      /optimizer\.safetensors.*bytes/s,
    ],
    [
      'optimizer.safetensors missing',
      (folder) => rmSync(join(folder, 'optimizer.safetensors')),
      /optimizer\.safetensors: cannot be opened \(ENOENT\)/,
    ],
    [
      'model.safetensors missing',
      (folder) => rmSync(join(folder, 'model.safetensors')),
      /no weights; expected model\.safetensors/,
    ],
  ])('%s', (name, change, message) => resume(message, copy(name.replaceAll(' ', '-'), change)));
});

describe('a loss that is no number', () => {
  it('stops training, keeps the last checkpoint and the losses up to it, and is recorded', async () => {
    const folder = scratch('diverged');
    const { code, stderr } = await command(
      ...small,
      ...words('--max_steps 40 --learning_rate 1e38 --lr_scheduler_type constant --weight_decay 0 --save_steps 1'),
      ...words('--logging_steps 10 --plot_loss --evaluation_strategy no --output_dir'),
      folder,
    );
    expect(stderr).toMatch(/^error: the (loss|norm of the gradients) became (NaN|-?Infinity): training stopped/);
    expect(code).toBe(2);
    const { status, error, steps, ...record } = readRecord(folder);
    expect(status).toBe('failed');
    expect(error).toContain('became');
    expect(steps.length).toBeGreaterThan(0);
    // All but what the end of training would have shown is as in a run that went well, and the report is made of it.
    const { model, data, versions, memory, blockHistory } = readRecord(earlier);
    expect(record).toMatchObject({ model, data, versions });
    expect(record.memory.planned!.optimizerStates).toBe(memory.planned!.optimizerStates);
    expect(record.blockHistory).toEqual([{ ...blockHistory[0], lastStep: steps.length }]);
    expect(record.timing.total).toBeGreaterThan(0);
    expect(readFileSync(join(folder, 'loss.csv'), 'utf8').trimEnd().split('\n')).toHaveLength(1 + steps.length);
    expect(readFileSync(join(folder, 'memory.md'), 'utf8')).toContain('- run: failed');
    expect(existsSync(join(folder, 'loss.png'))).toBe(true);
    const log = readFileSync(join(folder, 'log.jsonl'), 'utf8').trimEnd().split('\n');
    expect(log.map((line) => (JSON.parse(line) as { step: number }).step)).toEqual([steps.length]);
    expect(existsSync(join(folder, `checkpoint-${steps.length}`, 'trainer_state.json'))).toBe(true);
    expect(existsSync(join(folder, '.running'))).toBe(false);
  });

  it('before the first step: the weights are to blame', async () => {
    const model = brokenModel('not-finite', (folder) => {
      const path = join(folder, 'model.safetensors');
      const bytes = readFileSync(path);
      bytes.fill(0xff, bytes.length - 2000); // bfloat16 and float32 NaN
      writeFileSync(path, bytes);
    });
    for (const more of [[], ['--do_train', 'false']]) {
      const { code, stderr } = await command(...small, ...model, ...more, '--output_dir', scratch(`nan ${more}`));
      expect(stderr).toMatch(/^error: the logit of token 0 is not a number: the model's weights hold NaN/);
      expect(code).toBe(2);
    }
  });
});

it('the process exits with 2 and prints the message alone', async () => {
  const { code, stdout, stderr } = await startCommand('--template', 'lama2').ended;
  expect(code).toBe(2);
  expect(stdout).toBe('');
  expect(stderr).toMatch(
    /^error: The command line has a problem:\n {2}--template: found "lama2".*\nAll options: .*\n$/,
  );
});
