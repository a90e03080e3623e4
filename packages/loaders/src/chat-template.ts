import { UserError } from '@blockwise/errors';
import type { Conversation } from './records.ts';
import type { EncodedTurn, Template } from './templates.ts';
import type { ChatMessage, Tokenizer } from './tokenizer.ts';

/**
 * The tokenizer's own chat template as a `Template`. The whole conversation is rendered and encoded as transformers'
 * `apply_chat_template` does, so that training sees the very ids that generation will; an answer is what the
 * rendering with the answer adds to the rendering that asks for it (`add_generation_prompt`), end markers included. A
 * token that spans the two belongs to the answer. The tokenizer has an end token.
 * @throws UserError when it has no chat template.
 */
export function chatTemplate(tokenizer: Tokenizer): Template {
  if (tokenizer.chatTemplate === undefined) {
    throw new UserError(
      `template: the tokenizer of ${tokenizer.folder} has no chat template in tokenizer_config.json; ` +
        'name a template instead (default, alpaca, llama2, llama3, vanilla).',
    );
  }
  const render = (messages: readonly ChatMessage[], addGenerationPrompt: boolean): string =>
    tokenizer.applyChatTemplate(messages, { addGenerationPrompt });
  const encode = (text: string): number[] => tokenizer.encode(text, { addSpecialTokens: false });
  return {
    name: 'tokenizer',
    finalToken: undefined,
    textEnd: tokenizer.eos!.id,
    stopTokenIds: stopTokens(tokenizer),
    encodePrompt: (conversation) => encode(render(chatMessages(conversation), true)),
    encodeTurns: (conversation) => {
      const messages = chatMessages(conversation);
      const first = messages.length - conversation.messages.length;
      const whole = render(messages, false);
      const ids = encode(whole);
      /** Where in `ids` a part of the conversation ends: as far as its own ids agree with those of the whole. */
      const end = (text: string): number => {
        if (!whole.startsWith(text)) {
          throw new UserError(
            `template: the chat template of ${tokenizer.folder} rewrites earlier turns as a conversation grows, so its answers ` +
              'cannot be told from its prompts; name a template instead (default, alpaca, llama2, llama3, vanilla).',
          );
        }
        const part = text === whole ? ids : encode(text);
        const differs = part.findIndex((id, i) => id !== ids[i]);
        return differs < 0 ? part.length : differs;
      };
      const turns: EncodedTurn[] = [];
      let done = 0;
      for (let i = first; i < messages.length; i += 2) {
        const answerStart = end(render(messages.slice(0, i + 1), true));
        const answerEnd = end(render(messages.slice(0, i + 2), false));
        turns.push({ source: ids.slice(done, answerStart), target: ids.slice(answerStart, answerEnd) });
        done = answerEnd;
      }
      return turns;
    },
  };
}

function chatMessages({ system, messages }: Conversation): ChatMessage[] {
  return system ? [{ role: 'system', content: system }, ...messages] : messages;
}

/** The end token, and the special tokens with which the chat template itself closes an answer. */
function stopTokens(tokenizer: Tokenizer): number[] {
  const mark = 'blockwise';
  const asked: ChatMessage[] = [{ role: 'user', content: mark }];
  const answered = tokenizer.applyChatTemplate([...asked, { role: 'assistant', content: mark }]);
  const closing = answered.slice(answered.lastIndexOf(mark) + mark.length);
  const ids = tokenizer.encode(closing, { addSpecialTokens: false });
  // A marker is a token that skipSpecialTokens hides; a closing space or line break is not one.
  const isMarker = (id: number): boolean =>
    tokenizer.decode([id], { skipSpecialTokens: true }) === '' && tokenizer.decode([id]).trim() !== '';
  return [...new Set([tokenizer.eos!.id, ...ids.filter(isMarker).slice(0, 1)])];
}
