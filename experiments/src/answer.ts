import { generate, llamaDecoder, type Llama } from '@blockwise/model-zoo';
import type { PreparedData } from './prepare-data.ts';

/** The model's greedy answer to a prompt, up to its end token or `maxNewTokens`. */
export type Answerer = (prompt: readonly number[], maxNewTokens: number) => Promise<string>;

/** Makes a model answer, as it is at the time of asking: one decoder, compiled once, serves before and after training. */
export function createAnswerer(model: Llama, { tokenizer, template }: PreparedData): Answerer {
  const decoder = llamaDecoder(model);
  const stop = new Set([...template.stopTokenIds, ...(tokenizer.eos ? [tokenizer.eos.id] : [])]);
  const decode = (ids: readonly number[]) => tokenizer.decode([...ids], { skipSpecialTokens: true });
  return async (prompt, maxNewTokens) =>
    (await generate(decoder, prompt, { maxNewTokens, eosTokenIds: [...stop], decode })).text;
}
