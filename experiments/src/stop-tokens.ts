import { readJsonObject } from '@blockwise/model-zoo';
import { writeAside } from '@blockwise/reporting';
import { existsSync } from 'node:fs';
import { join } from 'node:path';

/**
 * Tells transformers' generate() by which tokens an answer ends that was learnt with a template: those that are missing are added to
 * eos_token_id in a saved model's generation_config.json. (Llama 3's base model ends a text by another token than a turn of its chat template.)
 * An adapter has no such file: its base stays as it is.
 */
export function saveStopTokens(folder: string, stopTokenIds: readonly number[]): void {
  const [model, generation] = ['config.json', 'generation_config.json'].map((name) => join(folder, name));
  if (!existsSync(model)) return;
  const json = existsSync(generation) ? readJsonObject(generation, 2 ** 20) : {};
  const known = [json.eos_token_id ?? readJsonObject(model, 2 ** 20).eos_token_id ?? []].flat() as number[];
  const all = [...new Set([...known, ...stopTokenIds])];
  if (all.length === known.length) return;
  writeAside(generation, `${JSON.stringify({ ...json, eos_token_id: all }, undefined, 2)}\n`);
}
