import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { afterEach, expect, test, vi } from 'vitest';
import { benchPython } from './python-environment.ts';

afterEach(() => vi.unstubAllEnvs());

test('a named Python is taken as it is, and has to be there', () => {
  vi.stubEnv('BLOCKWISE_BENCH_PYTHON', process.execPath);
  expect(benchPython(() => {})).toBe(process.execPath);
  vi.stubEnv('BLOCKWISE_BENCH_PYTHON', '/nonexistent/python');
  expect(() => benchPython(() => {})).toThrow(
    'BLOCKWISE_BENCH_PYTHON: there is no /nonexistent/python; name a Python program',
  );
});

test('without any Python the message says what is needed and which way round it', () => {
  vi.stubEnv('BLOCKWISE_BENCH_PYTHON', '');
  vi.stubEnv('PATH', '/nonexistent');
  const cache = mkdtempSync(join(tmpdir(), 'bench-python-'));
  try {
    const make = () => benchPython(() => {}, cache);
    expect(make).toThrow('the Python environment for the comparison could not be made');
    expect(make).toThrow(/needs python3 with venv .* or set BLOCKWISE_BENCH_PYTHON .*requirements\.txt/);
  } finally {
    rmSync(cache, { recursive: true, force: true });
  }
});
