import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, it, vi } from 'vitest';
import { readGpuMemory } from './memory.ts';

const folder = mkdtempSync(join(tmpdir(), 'nvidia-smi-'));

afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

it("reads this process's share from nvidia-smi, in bytes, and says nothing without it", () => {
  vi.stubEnv('PATH', join(folder, 'empty'));
  expect(readGpuMemory()).toBeUndefined();
  const program = join(folder, 'nvidia-smi');
  writeFileSync(program, `#!/bin/sh\nprintf '1, 500\\n${process.pid}, 1024\\n'\n`);
  chmodSync(program, 0o755);
  vi.stubEnv('PATH', folder);
  expect(readGpuMemory()).toBe(2 ** 30);
});
