import { spawnSync } from 'node:child_process';
import process from 'node:process';
import { expect, test } from 'vitest';
import { limitMemory } from './memory-limit.ts';

test.skipIf(process.platform !== 'linux')('a process within the limit completes, one beyond it does not', () => {
  const { how, prefix, release } = limitMemory(2e9);
  const fill = (gigabytes: number) => {
    const body = `const all = []; for (let i = 0; i < ${gigabytes} * 10; i++) all.push(Buffer.alloc(1e8, 1)); console.log('done')`;
    const [program, ...words] = [...prefix, process.execPath, '-e', body];
    return spawnSync(program, words, { encoding: 'utf8' });
  };
  try {
    expect(how).toMatch(/cgroup|systemd|RLIMIT_DATA/);
    expect(fill(0.5)).toMatchObject({ status: 0, stdout: 'done\n' });
    expect(fill(3)).toMatchObject({ stdout: '' });
  } finally {
    release();
  }
});
