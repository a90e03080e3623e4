import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { goldenPath, hasShared, readGolden, sharedData } from './test-data.ts';
import { loadTokenizer } from './tokenizer.ts';
import type { ChatMessage } from './tokenizer.ts';

interface Golden {
  strings: string[];
  tokenizers: {
    name: string;
    plain: number[][];
    special: number[][];
    decoded: { ids: number[]; text: string; skipped: string }[];
  }[];
  chats: { name: string; template: string; messages: ChatMessage[]; addGenerationPrompt: boolean; text: string }[];
}

// tools/golden/tokenizer.py; versions inside.
const golden = readGolden<Golden>('tokens.json');
const folders: Record<string, string> = {
  'byte-level': goldenPath('byte-level'),
  llama2: `${sharedData}/models/llama2_tokenizer`,
  stories260K: `${sharedData}/models/stories260K`,
};

for (const { name, plain, special, decoded } of golden.tokenizers) {
  const present = name === 'byte-level' || hasShared('models');
  describe.skipIf(!present)(`the ${name} tokenizer`, () => {
    it(`gives the ids of Python's tokenizers for ${golden.strings.length} tricky strings`, () => {
      const tokenizer = loadTokenizer(folders[name]!);
      for (const [i, text] of golden.strings.entries()) {
        expect([text, tokenizer.encode(text, { addSpecialTokens: false })]).toEqual([text, plain[i]]);
        expect([text, tokenizer.encode(text)]).toEqual([text, special[i]]);
      }
    });

    it(`gives the texts of Python's tokenizers for ${decoded.length} id sequences`, () => {
      const tokenizer = loadTokenizer(folders[name]!);
      for (const { ids, text, skipped } of decoded) {
        expect([ids, tokenizer.decode(ids)]).toEqual([ids, text]);
        expect([ids, tokenizer.decode(ids, { skipSpecialTokens: true })]).toEqual([ids, skipped]);
      }
    });

    it('streams, one id at a time, the very text it decodes at once', () => {
      const tokenizer = loadTokenizer(folders[name]!);
      for (const skipSpecialTokens of [false, true]) {
        const stream = tokenizer.streamDecoder({ skipSpecialTokens });
        for (const ids of special) {
          const parts = [...ids.map((id) => stream.push(id)), stream.flush()];
          expect(parts.join('')).toBe(tokenizer.decode(ids, { skipSpecialTokens }));
        }
      }
    });
  });
}

describe('the chat template of a tokenizer', () => {
  let folder: string;
  beforeEach(() => (folder = copyOfByteLevel()));
  afterEach(() => rmSync(folder, { recursive: true }));

  it('renders as transformers does, headers, ChatML and [INST] alike', () => {
    expect(golden.chats.length).toBeGreaterThan(0);
    for (const { template, messages, addGenerationPrompt, text } of golden.chats) {
      editConfig(folder, { chat_template: template });
      expect(loadTokenizer(folder).applyChatTemplate(messages, { addGenerationPrompt })).toBe(text);
    }
  });

  it('may be one of several by name, or a file of its own', () => {
    const user: ChatMessage[] = [{ role: 'user', content: 'x' }];
    editConfig(folder, {
      chat_template: [
        { name: 'tool_use', template: 'no' },
        { name: 'default', template: 'yes' },
      ],
    });
    expect(loadTokenizer(folder).applyChatTemplate(user)).toBe('yes');
    writeFileSync(join(folder, 'chat_template.jinja'), 'file {{ messages[0].content }}');
    expect(loadTokenizer(folder).applyChatTemplate(user)).toBe('file x');
  });

  it('is missed, or fails, with an error that names the folder', () => {
    editConfig(folder, { chat_template: "{{ raise_exception('no such role') }}" });
    expect(() => loadTokenizer(folder).applyChatTemplate([])).toThrow(
      `${folder}: the tokenizer's chat template failed: no such role`,
    );
    editConfig(folder, { chat_template: null });
    expect(() => loadTokenizer(folder).applyChatTemplate([])).toThrow(`${folder}: the tokenizer has no chat template`);
  });
});

describe('loadTokenizer', () => {
  let folder: string;
  beforeEach(() => (folder = copyOfByteLevel()));
  afterEach(() => rmSync(folder, { recursive: true }));

  it('knows the special tokens, whether given as text or as an object, and pads with eos where no pad is named', () => {
    editConfig(folder, { bos_token: { content: '<|begin_of_text|>', special: true } });
    const tokenizer = loadTokenizer(folder);
    expect(tokenizer.bos).toEqual({ token: '<|begin_of_text|>', id: tokenizer.tokenId('<|begin_of_text|>') });
    expect(tokenizer.pad).toEqual(tokenizer.eos);
    expect(tokenizer.unk).toBeUndefined();
    expect(tokenizer.vocabSize).toBe(tokenizer.tokenId('<|eom_id|>')! + 1);
    editConfig(folder, { pad_token: '<|eom_id|>' });
    expect(loadTokenizer(folder).pad?.token).toBe('<|eom_id|>');
  });

  it('leaves out ids outside the vocabulary, and decodes nothing to nothing', () => {
    const tokenizer = loadTokenizer(folder);
    expect(tokenizer.decode([])).toBe('');
    expect(tokenizer.decode([99_999])).toBe('');
    expect(tokenizer.decode([...tokenizer.encode('tea', { addSpecialTokens: false }), 99_999])).toBe('tea');
  });

  it('has a fingerprint that changes with each file', () => {
    const before = loadTokenizer(folder).fingerprint;
    expect(loadTokenizer(folder).fingerprint).toBe(before);
    editConfig(folder, { pad_token: '<|eom_id|>' });
    const after = loadTokenizer(folder).fingerprint;
    expect(after).not.toBe(before);
    writeFileSync(join(folder, 'chat_template.jinja'), 'other');
    expect(new Set([before, after, loadTokenizer(folder).fingerprint]).size).toBe(3);
  });

  it('refuses missing and broken files, naming them and the way out', () => {
    const file = join(folder, 'tokenizer.json');
    editConfig(folder, { eos_token: '<nope>' });
    expect(() => loadTokenizer(folder)).toThrow(
      /tokenizer_config\.json: "eos_token" is "<nope>", which tokenizer\.json does not have/,
    );
    writeFileSync(file, '{"model": ');
    expect(() => loadTokenizer(folder)).toThrow(
      /tokenizer\.json: cannot be read as JSON \(.*\)\. Download the file again\./,
    );
    writeFileSync(file, '[]');
    expect(() => loadTokenizer(folder)).toThrow('expected a JSON object');
    writeFileSync(file, '{"model": {"type": "BPE"}}');
    expect(() => loadTokenizer(folder)).toThrow(
      /tokenizer\.json: not a tokenizer that @huggingface\/tokenizers can run/,
    );
    rmSync(file);
    expect(() => loadTokenizer(folder)).toThrow(
      `${file}: no such file. A model folder needs tokenizer.json and tokenizer_config.json`,
    );
  });
});

function copyOfByteLevel(): string {
  const folder = mkdtempSync(join(tmpdir(), 'blockwise-tokenizer-'));
  cpSync(goldenPath('byte-level'), folder, { recursive: true });
  return folder;
}

function editConfig(folder: string, change: object): void {
  const file = join(folder, 'tokenizer_config.json');
  writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, 'utf8')), ...change }));
}
