import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { baseDigest } from './base-digest.ts';
import { embedded } from './embedded.ts';

const folder = mkdtempSync(join(tmpdir(), 'base-digest-test-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

it('is the same where the model lies elsewhere, and another where its weights or its config.json are', () => {
  const own = baseDigest(embedded.model);
  const copy = (name: string) => {
    const place = join(folder, name);
    cpSync(embedded.model, place, { recursive: true });
    return place;
  };
  expect(baseDigest(copy('moved'))).toBe(own);

  const tokens = copy('tokens');
  writeFileSync(join(tokens, 'tokenizer.json'), '{}');
  expect(baseDigest(tokens)).toBe(own);

  for (const name of ['model.safetensors', 'config.json']) {
    const changed = copy(`changed ${name}`);
    const bytes = readFileSync(join(changed, name));
    bytes[bytes.length - 100] ^= 1;
    writeFileSync(join(changed, name), bytes);
    expect(baseDigest(changed), name).not.toBe(own);
  }
});
