import { generate, llamaDecoder, type Llama } from '@blockwise/model-zoo';
import type { PreparedData } from './prepare-data.ts';

/** The model's greedy answer to a prompt's tokens, up to its end token or `maxNewTokens`. */
export async function answer(
  model: Llama,
  data: PreparedData,
  prompt: readonly number[],
  maxNewTokens: number,
): Promise<string> {
  const { tokenizer, template } = data;
  const stop = new Set([...template.stopTokenIds, ...(tokenizer.eos ? [tokenizer.eos.id] : [])]);
  const { text } = await generate(llamaDecoder(model), prompt, {
    maxNewTokens,
    eosTokenIds: [...stop],
    decode: (ids) => tokenizer.decode([...ids], { skipSpecialTokens: true }),
  });
  return text;
}
