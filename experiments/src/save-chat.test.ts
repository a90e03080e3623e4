import { loadTokenizer, loadTemplate, type Template } from '@blockwise/loaders';
import { cpSync, existsSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { embedded } from './embedded.ts';
import { saveChat } from './save-chat.ts';

/** A folder with some files, after saveChat(). */
function saved(files: Record<string, object>, template: Partial<Template>) {
  const folder = mkdtempSync(join(tmpdir(), 'blockwise-chat-'));
  for (const [name, json] of Object.entries(files)) writeFileSync(join(folder, name), JSON.stringify(json));
  saveChat(folder, { stopTokenIds: [], ...template } as Template);
  const read = (name: string): unknown =>
    existsSync(join(folder, name)) ? JSON.parse(readFileSync(join(folder, name), 'utf8')) : undefined;
  return { generation: read('generation_config.json'), tokenizer: read('tokenizer_config.json') };
}

describe('the tokens that end an answer', () => {
  const config = { 'config.json': { eos_token_id: 128001 } };

  it('join those that the model knows', () => {
    expect(saved(config, { stopTokenIds: [128009] }).generation).toEqual({ eos_token_id: [128001, 128009] });
    const generation = { 'generation_config.json': { eos_token_id: [128001], temperature: 0.6 } };
    const eos_token_id = [128001, 128009, 128008];
    expect(saved({ ...config, ...generation }, { stopTokenIds: [128009, 128008] }).generation).toEqual({
      ...{ eos_token_id, temperature: 0.6 },
    });
  });

  it('change nothing where the model knows them, and nothing beside an adapter', () => {
    expect(saved(config, { stopTokenIds: [128001] }).generation).toBeUndefined();
    expect(saved({ 'adapter_config.json': {} }, { stopTokenIds: [2] }).generation).toBeUndefined();
  });
});

describe('the chat template', () => {
  const own = { 'tokenizer_config.json': { eos_token: '</s>', chat_template: 'own' } };

  it('is added where there is none, and replaces another where the template is of another kind', () => {
    const none = { 'tokenizer_config.json': { eos_token: '</s>' } };
    const learnt = { chatTemplate: 'learnt' };
    expect(saved(none, learnt).tokenizer).toEqual({ eos_token: '</s>', chat_template: 'learnt' });
    expect(saved(own, learnt).tokenizer).toEqual(own['tokenizer_config.json']);
    expect(saved(own, { ...learnt, replacesChatTemplate: true }).tokenizer).toMatchObject({ chat_template: 'learnt' });
    expect(saved(none, {}).tokenizer).toEqual({ eos_token: '</s>' });
  });

  it('makes the saved tokenizer ask as the model was trained', () => {
    const folder = mkdtempSync(join(tmpdir(), 'blockwise-chat-'));
    cpSync(embedded.model, folder, { recursive: true });
    const template = loadTemplate('alpaca', loadTokenizer(folder));
    saveChat(folder, template);
    const tokenizer = loadTokenizer(folder);
    const messages = [{ role: 'user' as const, content: "What's 2 + 3?" }];
    const asked = tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true });
    expect(asked).toBe(tokenizer.decode(template.encodePrompt({ messages })));
    expect(asked).toMatch(/### Instruction:\nWhat's 2 \+ 3\?\n\n### Response:\n$/);
  });
});
