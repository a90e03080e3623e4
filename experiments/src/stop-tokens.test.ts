import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { saveStopTokens } from './stop-tokens.ts';

describe('the tokens that end an answer', () => {
  /** eos_token_id of generation_config.json after saving, beside files that were there. */
  function saved(files: Record<string, object>, stops: number[]): unknown {
    const folder = mkdtempSync(join(tmpdir(), 'blockwise-stop-'));
    for (const [name, json] of Object.entries(files)) writeFileSync(join(folder, name), JSON.stringify(json));
    saveStopTokens(folder, stops);
    try {
      return JSON.parse(readFileSync(join(folder, 'generation_config.json'), 'utf8'));
    } catch {
      return undefined;
    }
  }
  const config = { 'config.json': { eos_token_id: 128001 } };

  it('join those that the model knows', () => {
    expect(saved(config, [128009])).toEqual({ eos_token_id: [128001, 128009] });
    const generation = { 'generation_config.json': { eos_token_id: [128001], temperature: 0.6 } };
    expect(saved({ ...config, ...generation }, [128009, 128008])).toEqual({
      eos_token_id: [128001, 128009, 128008],
      temperature: 0.6,
    });
  });

  it('change nothing where the model knows them, and nothing beside an adapter', () => {
    expect(saved(config, [128001])).toBeUndefined();
    expect(saved({ 'adapter_config.json': {} }, [2])).toBeUndefined();
  });
});
