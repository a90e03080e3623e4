import { UserError } from '@blockwise/errors';
import { existsSync, mkdirSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import process from 'node:process';
import { afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import * as answering from './answer.ts';
import { capture, command, filesOf, readRecord, scratch, small, startCommand } from './command-run.test-support.ts';
import { methods } from './methods.ts';
import { runCommand, tellError } from './run-command.ts';

vi.mock('./answer.ts', { spy: true });
afterEach(() => void vi.restoreAllMocks());

/** A run with a checkpoint at step 2 of 4. */
const earlier = scratch('earlier');
const withCheckpoint = [...small, '--save_steps', '2', '--eval_steps', '2'];
beforeAll(async () => expect((await command(...withCheckpoint, '--output_dir', earlier)).code).toBe(0));

/** The command in this process, with Ctrl-C when it writes a line that begins so. */
async function interruptedAt(begin: string, ...typed: string[]) {
  const stdout = capture((text) => void (text.startsWith(begin) && process.emit('SIGINT')));
  const stderr = capture();
  const code = await runCommand(typed, { stdout: stdout.stream, stderr: stderr.stream });
  return { code, stderr: stderr.text() };
}

it("an error's message has nothing that a terminal obeys, whatever it quotes", () => {
  const stderr = capture();
  expect(tellError(new UserError('record 0 has "\u001b]0;x\u0007\u009b2J"\n  next'), stderr.stream)).toBe(2);
  expect(stderr.text()).toBe('error: record 0 has "\\x1b]0;x\\x07\\x9b2J"\n  next\n');
});

describe('Ctrl-C before training', () => {
  const before = () => filesOf(earlier);
  it.each([
    ['while the data is read', 'data:', []],
    ['while the samples are answered', 'model:', []],
    ['with --do_train false', 'model:', ['--do_train', 'false']],
  ])('%s: exit code 130, and the output folder is as it was', async (_, line, more) => {
    const found = before();
    const { code, stderr } = await interruptedAt(
      line,
      ...[...small, ...more, '--output_dir', earlier, '--overwrite_output_dir'],
    );
    expect(stderr).toBe(
      '\nstopping as soon as all that was trained is saved; once more to stop at once\n' +
        'stopped before training: the output folder is as it was\n',
    );
    expect(code).toBe(130);
    expect(filesOf(earlier)).toEqual(found);
    expect(existsSync(join(earlier, '.running'))).toBe(false);
  });

  it('waits for no download', async () => {
    const hub = createServer(() => void process.emit('SIGINT')); // and never an answer
    await new Promise<void>((ready) => hub.listen(0, '127.0.0.1', ready));
    vi.stubEnv('HF_ENDPOINT', `http://127.0.0.1:${(hub.address() as AddressInfo).port}`);
    vi.stubEnv('HF_HOME', scratch('hub'));
    vi.stubEnv('HF_HUB_OFFLINE', undefined);
    vi.stubEnv('HF_TOKEN', undefined);
    const { code } = await command('--model_name_or_path', 'org/slow', '--output_dir', scratch('slow'));
    expect(code).toBe(130);
    expect(existsSync(scratch('slow'))).toBe(false);
    vi.unstubAllEnvs();
    hub.closeAllConnections();
    hub.close();
  });

  it('makes no folder', async () => {
    expect((await interruptedAt('model:', ...small, '--output_dir', scratch('none'))).code).toBe(130);
    expect(existsSync(scratch('none'))).toBe(false);
  });
});

describe('the trained model', () => {
  it('is there although answering fails, and the record says so', async () => {
    const folder = scratch('no-answers');
    let asked = 0;
    vi.mocked(answering.createAnswerer).mockReturnValue(async () => {
      if (++asked <= 3) return '';
      mkdirSync(join(folder, 'loss.csv')); // the report fails too, which is of less interest
      throw new Error('out of memory');
    });
    const { code, stderr } = await command(...small, '--output_dir', folder);
    expect(stderr).toMatch(/^Error: out of memory\n/);
    expect(code).toBe(1);
    expect(readRecord(folder)).toMatchObject({ status: 'failed', error: 'out of memory' });
    expect(existsSync(join(folder, 'model/model.safetensors'))).toBe(true);
  });

  it('and a finished record are there after Ctrl-C in the answers, of which the rest is left out', async () => {
    const folder = scratch('fewer-answers');
    let asked = 0;
    vi.mocked(answering.createAnswerer).mockReturnValue(async () => {
      if (++asked === 4) process.emit('SIGINT');
      return `answer ${asked}`;
    });
    expect((await command(...small, '--output_dir', folder)).code).toBe(0);
    expect(asked).toBe(4);
    const { status, samples } = readRecord(folder);
    expect(status).toBe('finished');
    expect(samples.map(({ after }) => after)).toEqual(['answer 4', null, null]);
    expect(existsSync(join(folder, 'model/model.safetensors'))).toBe(true);
  });
});

describe('--resume_from_checkpoint', () => {
  it('opens the checkpoint when the model before training has left memory', async () => {
    const folder = scratch('lora');
    const lora = [...small, '--finetuning_type', 'lora', '--output_dir', folder];
    expect((await command(...lora, '--save_steps', '2')).code).toBe(0);
    const events: string[] = [];
    const { open } = methods.lora;
    vi.spyOn(methods.lora, 'open').mockImplementation((options, base, checkpoint) => {
      const opened = open(options, base, checkpoint);
      const name = checkpoint ? 'checkpoint' : 'original';
      events.push(`${name} opened`);
      const dispose = opened.model.dispose.bind(opened.model);
      vi.spyOn(opened.model, 'dispose').mockImplementation(() => {
        events.push(`${name} disposed`);
        dispose();
      });
      return opened;
    });
    expect((await command(...lora, '--resume_from_checkpoint', 'latest')).code).toBe(0);
    expect(events.slice(0, 3)).toEqual(['original opened', 'original disposed', 'checkpoint opened']);
  });

  it('with --do_train false evaluates the checkpoint into another folder, behind what its run had recorded', async () => {
    const from = join(earlier, 'checkpoint-2');
    const evaluate = [...withCheckpoint, '--do_train', 'false', '--resume_from_checkpoint', from, '--output_dir'];
    expect((await command(...evaluate, scratch('evaluated'))).code).toBe(0);
    const [run, evaluated] = [readRecord(earlier), readRecord(scratch('evaluated'))];
    expect(evaluated.steps).toEqual(run.steps.slice(0, 2));
    expect(evaluated.validation).toEqual(run.validation.slice(0, 2));
  });

  it('with --do_train false is refused in the folder of the run', async () => {
    const found = filesOf(earlier);
    const { code, stderr } = await command(
      ...[...withCheckpoint, '--do_train', 'false', '--output_dir', earlier, '--resume_from_checkpoint', 'latest'],
    );
    expect(stderr).toMatch(/--do_train false would overwrite the record of the run in .*checkpoint-2 and another/);
    expect(code).toBe(2);
    expect(filesOf(earlier)).toEqual(found);
  });
});

it('a reader that leaves, as head and an interrupted tee do, ends no run', async () => {
  const { child, ended } = startCommand(...small, '--output_dir', scratch('no-reader'));
  child.stdout!.once('data', () => child.stdout!.destroy());
  const { code, stderr } = await ended;
  expect(stderr).toBe('');
  expect(code).toBe(0);
  expect(readRecord(scratch('no-reader')).status).toBe('finished');
});
