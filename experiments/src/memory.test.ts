import {
  bitnet_defaults,
  bitnetWeightShapes,
  llama_110m,
  llama_1_1b,
  parameterCount,
  saveHollowBitNet,
} from '@blockwise/model-zoo';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

function run(...words: string[]) {
  const script = fileURLToPath(new URL('memory.ts', import.meta.url));
  const node = ['--import', 'tsx', '--conditions=blockwise-source', script, ...words];
  return spawnSync(process.execPath, node, { encoding: 'utf8' });
}

const tiny = {
  ...bitnet_defaults,
  ...{ vocab_size: 64, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, head_dim: 8 },
  ...{ num_attention_heads: 4, num_key_value_heads: 2, bos_token_id: 1, eos_token_id: 2 },
};

describe('experiments:memory', () => {
  it('plans a known model without its weights, and ends with one line of JSON', () => {
    const words = ['--model', 'tinyllama-1.1b', '--method', 'lora', '--per_device_train_batch_size', '1', '--cutoff_len', '64']; // prettier-ignore
    const planOf = (streamed: string) => {
      const { status, stdout } = run(...words, '--streamed', streamed);
      expect(status).toBe(0);
      expect(stdout).toContain('peak resident');
      return JSON.parse(stdout.trimEnd().split('\n').at(-1)!) as Record<string, number>;
    };
    const atRest = 2 * parameterCount(llama_1_1b).total;
    const [mapped, copied] = [planOf('true'), planOf('false')];
    expect(mapped.parameters).toBe(copied.parameters);
    expect(mapped.parameters).toBeGreaterThan(atRest);
    // Each layer leaves memory after its use, so the largest stage counts: an embedding or the head of 22 layers.
    expect(mapped.fileBacked).toBeLessThan(atRest / 8);
    expect(mapped.fileBacked).toBeGreaterThan(atRest / 22);
    expect(mapped.anonymous).toBeLessThan(atRest);
    expect(copied.anonymous).toBeGreaterThan(atRest);
    expect(copied.fileBacked).toBeLessThan(atRest);
  });

  it('plans a streamed run as streamed: no layer stays in memory', () => {
    const planOf = (...more: string[]) => {
      const { stdout } = run('--model', 'llama-110m', '--per_device_train_batch_size', '1', '--cutoff_len', '64', ...more); // prettier-ignore
      return JSON.parse(stdout.trimEnd().split('\n').at(-1)!) as Record<string, number>;
    };
    const layers = parameterCount(llama_110m).stages.filter(({ name }) => name.includes('.layers.'));
    const atRest = 2 * layers.reduce((sum, { parameters }) => sum + parameters, 0);
    expect(planOf('--no-streamed').anonymous - planOf('--streamed').anonymous).toBeGreaterThan(atRest);
  });

  it('plans what --finetuning_type bitnet left: a BitNet that trains on', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'memory-test-'));
    await saveHollowBitNet(folder, { config: tiny, storage: 'online' }, 'bfloat16');
    const { status, stdout, stderr } = run('--model', folder, '--method', 'bitnet', '--cutoff_len', '64');
    const other = run('--model', folder, '--method', 'full');
    rmSync(folder, { recursive: true });
    expect([status, stderr]).toEqual([0, '']);
    const planned = JSON.parse(stdout.trimEnd().split('\n').at(-1)!) as Record<string, number>;
    // All of it trains: float32 masters, and two moments of each.
    const all = [...bitnetWeightShapes(tiny).values()].reduce(
      (sum, shape) => sum + shape.reduce((a, b) => a * b, 1),
      0,
    );
    expect(planned.parameters).toBe(4 * all);
    expect(planned.optimizerStates).toBe(8 * all);
    expect([other.status, other.stderr]).toEqual([2, expect.stringContaining('model_type: found "bitnet"')]);
  });

  it.each([
    [
      ['--model', 'llama-9'],
      '--model llama-9: neither a folder with config.json nor a known name; known are embedded, llama-2-7b',
    ],
    [['--streamed=maybe'], '--streamed: found "maybe", expected true or false'],
    [['--method', 'lore'], 'lora'],
  ])('says in one message what is wrong with %s', (words, message) => {
    const { status, stderr } = run(...words);
    expect(status).toBe(2);
    expect(stderr).toContain(message);
  });
});
