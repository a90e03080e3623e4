import type { Template } from '@blockwise/loaders';
import { readJsonObject } from '@blockwise/model-zoo';
import { writeAside } from '@blockwise/reporting';
import { existsSync } from 'node:fs';
import { join } from 'node:path';

/**
 * Tells transformers what a saved model learnt to talk like: in tokenizer_config.json the chat template that renders the same text as its
 * template (not always the same ids: packages/loaders/README.md), where the tokenizer has none or another kind; in generation_config.json the
 * tokens that end an answer. (Llama 3's base model ends a text by another token than a turn of its chat.) An adapter has no such files: its base
 * stays as it is.
 */
export function saveChat(folder: string, { stopTokenIds, chatTemplate, replacesChatTemplate }: Template): void {
  const file = (name: string) => join(folder, name);
  const read = (name: string) => (existsSync(file(name)) ? readJsonObject(file(name), 2 ** 24) : undefined);
  const write = (name: string, json: object) => writeAside(file(name), `${JSON.stringify(json, undefined, 2)}\n`);

  const tokenizer = read('tokenizer_config.json');
  const hasChat = tokenizer?.chat_template !== undefined || existsSync(file('chat_template.jinja'));
  if (tokenizer && chatTemplate !== undefined && (!hasChat || replacesChatTemplate)) {
    write('tokenizer_config.json', { ...tokenizer, chat_template: chatTemplate });
    // Where both are there, transformers reads this one.
    if (existsSync(file('chat_template.jinja'))) writeAside(file('chat_template.jinja'), chatTemplate);
  }

  const [model, generation] = [read('config.json'), read('generation_config.json')];
  if (!model) return;
  const known = [generation?.eos_token_id ?? model.eos_token_id ?? []].flat() as number[];
  const all = [...new Set([...known, ...stopTokenIds])];
  if (all.length > known.length) write('generation_config.json', { ...generation, eos_token_id: all });
}
