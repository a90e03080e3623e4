import type { Conversation } from './records.ts';
import type { Template } from './templates.ts';
import type { Tokenizer } from './tokenizer.ts';

/** The label of a token that is not trained on. */
export const ignoreIndex = -100;

/**
 * One example, T tokens long. `labels[t]` is `inputIds[t]` where the token is to be learnt and -100 elsewhere; labels
 * are not shifted, the model predicts label t + 1 at position t.
 */
export interface Example {
  readonly inputIds: Int32Array;
  readonly labels: Int32Array;
}

/**
 * A conversation as an example of at most `cutoffLen` tokens: prompts masked, each answer with its end token trained.
 * Too long conversations lose tokens as in LLaMA-Factory (src/llamafactory/data/processor/supervised.py, commit
 * ff6d4d1): turn by turn, prompt and answer cut in proportion (`inferSeqlen`), and turns past the cutoff left out.
 * @returns the example, and how many tokens the cutoff took from it.
 */
export function encodeConversation(
  template: Template,
  conversation: Conversation,
  cutoffLen: number,
): { example: Example; cutTokens: number } {
  const { finalToken } = template;
  const turns = template.encodeTurns(conversation);
  const inputIds: number[] = [];
  const labels: number[] = [];
  let whole = 0;
  const room = cutoffLen - (finalToken === undefined ? 0 : 1);
  for (const [i, { source, target }] of turns.entries()) {
    whole += source.length + target.length;
    if (inputIds.length >= room) continue;
    const kept = inferSeqlen(source.length, target.length, room - inputIds.length);
    const masked = new Array<number>(kept.source).fill(ignoreIndex);
    // The answer before this turn has no end token of its own: its end is learnt at the first token that follows.
    if (finalToken !== undefined && i > 0 && kept.source > 0) masked[0] = finalToken;
    inputIds.push(...source.slice(0, kept.source), ...target.slice(0, kept.target));
    labels.push(...masked, ...target.slice(0, kept.target));
  }
  const cutTokens = whole - inputIds.length;
  if (finalToken !== undefined) {
    inputIds.push(finalToken);
    labels.push(finalToken);
  }
  return { example: { inputIds: Int32Array.from(inputIds), labels: Int32Array.from(labels) }, cutTokens };
}

/**
 * How many tokens of a prompt (source) and its answer (target) fit in `room`: the answer is kept whole while it takes
 * less than half, else the prompt while it does, else both shrink in proportion (LLaMA-Factory,
 * src/llamafactory/data/processor/processor_utils.py, `infer_seqlen`, commit ff6d4d1).
 */
export function inferSeqlen(source: number, target: number, room: number): { source: number; target: number } {
  let mostTarget: number;
  if (target * 2 < room) mostTarget = room;
  else if (source * 2 < room) mostTarget = room - source;
  else mostTarget = Math.trunc(room * (target / (source + target)));
  const keptTarget = Math.min(mostTarget, target);
  return { source: Math.min(Math.max(room - keptTarget, 0), source), target: keptTarget };
}

/**
 * Texts for pretraining: each followed by its end token, all joined, and cut into examples of exactly `cutoffLen`
 * tokens; what is left over at the end is dropped. Every token is trained on. With `add_bos_token` the first token of
 * each example is replaced by bos (LLaMA-Factory, src/llamafactory/data/processor/pretrain.py with packing, commit
 * ff6d4d1).
 * @returns the examples, and how many tokens at the end were dropped.
 */
export function encodeTexts(
  tokenizer: Tokenizer,
  template: Template,
  texts: readonly (readonly number[])[],
  cutoffLen: number,
): { examples: Example[]; cutTokens: number } {
  const total = texts.reduce((sum, ids) => sum + ids.length + 1, 0);
  const joined = new Int32Array(total);
  let end = 0;
  for (const ids of texts) {
    joined.set(ids, end);
    end += ids.length;
    joined[end++] = template.textEnd;
  }
  const examples = Array.from({ length: Math.floor(total / cutoffLen) }, (_, i) => {
    const inputIds = joined.slice(i * cutoffLen, (i + 1) * cutoffLen);
    if (tokenizer.addBosToken && tokenizer.bos !== undefined) inputIds[0] = tokenizer.bos.id;
    return { inputIds, labels: inputIds.slice() };
  });
  return { examples, cutTokens: total - examples.length * cutoffLen };
}
