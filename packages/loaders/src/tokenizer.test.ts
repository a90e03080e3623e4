import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
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

  // Ids and texts here and below are those of transformers 4.57.6 and 5.24.0 for the same folders.
  it('takes special tokens of special_tokens_map.json, before those of a config without added_tokens_decoder', () => {
    write('special_tokens_map.json', { eos_token: { content: '<|eot_id|>' } });
    expect(loadTokenizer(folder)).toMatchObject({ bos: { id: 400 }, eos: { token: '<|eot_id|>', id: 404 } });
    editConfig(folder, { added_tokens_decoder: {} });
    expect(loadTokenizer(folder).eos?.id).toBe(401);
    rmSync(join(folder, 'tokenizer_config.json'));
    expect(loadTokenizer(folder)).toMatchObject({ bos: undefined, eos: { id: 404 } });
    // transformers would give it an id beyond the embedding.
    write('special_tokens_map.json', { eos_token: '<|eot_id|>', pad_token: '[PAD]' });
    expect(loadTokenizer(folder).pad?.id).toBe(404);
  });

  it("takes Llama's own special tokens where no file names others and the vocabulary has them", () => {
    addToTokenizerJson({ id: 406, content: '</s>', special: true });
    editConfig(folder, { tokenizer_class: 'LlamaTokenizer', bos_token: undefined, eos_token: undefined });
    expect(loadTokenizer(folder)).toMatchObject({ bos: undefined, eos: { token: '</s>', id: 406 }, unk: undefined });
    editConfig(folder, { eos_token: null });
    expect(loadTokenizer(folder).eos).toBeUndefined();
    editConfig(folder, { tokenizer_class: 'PreTrainedTokenizerFast', eos_token: undefined });
    expect(loadTokenizer(folder).eos).toBeUndefined();
  });

  it('opens a tokenizer.json alone, without special tokens', () => {
    rmSync(join(folder, 'tokenizer_config.json'));
    const { bos, eos, pad, unk, vocabSize } = loadTokenizer(folder);
    expect({ bos, eos, pad, unk, vocabSize }).toEqual({ vocabSize: 406 });
  });

  it('adds the tokens of added_tokens_decoder that tokenizer.json lacks, with their flags', () => {
    editConfig(folder, {
      pad_token: '[PAD]',
      added_tokens_decoder: {
        400: { content: '<|begin_of_text|>', special: true },
        407: { content: '[PAD]', special: true },
        406: { content: '<tool>', rstrip: true, special: false },
      },
    });
    const tokenizer = loadTokenizer(folder);
    const ids = tokenizer.encode('a<tool> b[PAD]c', { addSpecialTokens: false });
    expect(ids).toEqual([64, 406, 65, 407, 66]);
    expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe('a<tool>bc');
    expect(tokenizer).toMatchObject({ pad: { token: '[PAD]', id: 407 }, vocabSize: 408 });
  });

  it('adds the tokens of added_tokens.json, special where a field names them, if there is no added_tokens_decoder', () => {
    editConfig(folder, { pad_token: '[PAD]' });
    write('added_tokens.json', { '[PAD]': 407, '<tool>': 406 });
    const tokenizer = loadTokenizer(folder);
    const ids = tokenizer.encode('a<tool> b[PAD]c', { addSpecialTokens: false });
    expect(ids).toEqual([64, 406, 220, 65, 407, 66]);
    expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe('a<tool> bc');
    expect(tokenizer.pad).toEqual({ token: '[PAD]', id: 407 });
    editConfig(folder, { pad_token: undefined, added_tokens_decoder: {} });
    expect(loadTokenizer(folder).tokenId('<tool>')).toBeUndefined();
  });

  it.each([
    ['taken by another token', '<tool>', 5, 406],
    ['beyond the next free one', '<tool>', 410, 406],
    ["not the token's own", '<|eot_id|>', 9, 404],
  ])('refuses an added token whose id is %s', (_, content, id, expected) => {
    const refused = (file: string) =>
      expect(() => loadTokenizer(folder)).toThrow(
        `${join(folder, file)}: the added token "${content}" has id ${id}, but with tokenizer.json it is ${expected}; the two files must come from the same model.`,
      );
    write('added_tokens.json', { [content]: id });
    refused('added_tokens.json');
    editConfig(folder, { added_tokens_decoder: { [id]: { content } } });
    refused('tokenizer_config.json');
  });

  it('refuses added tokens that match whole words only, in tokenizer.json and beside it', () => {
    const message = `${folder}: the added token "word" has "single_word": true`;
    editConfig(folder, { added_tokens_decoder: { 406: { content: 'word', single_word: true } } });
    expect(() => loadTokenizer(folder)).toThrow(message);
    editConfig(folder, { added_tokens_decoder: undefined });
    addToTokenizerJson({ id: 406, content: 'word', single_word: true });
    expect(() => loadTokenizer(folder)).toThrow(message);
  });

  it.each([
    ['an entry that is none', [null], 'the token null has id nothing'],
    ['a token without a text', [{ id: 406, content: [] }], 'the token a list of 0 has id number 406'],
    ['an id that would fill the memory', [{ id: 1e9, content: 'x' }], 'the token string "x" has id number 1000000000'],
  ])('refuses %s among the added tokens', (_, tokens, message) => {
    edit('tokenizer.json', (json) => ({ ...json, added_tokens: tokens }));
    expect(() => loadTokenizer(folder)).toThrow(`${join(folder, 'tokenizer.json')}: ${message}; expected a text and`);
  });

  it('refuses ids of pieces and of declared tokens that are none', () => {
    editConfig(folder, { added_tokens_decoder: { x: { content: 'a' } } });
    expect(() => loadTokenizer(folder)).toThrow('tokenizer_config.json: the token string "a" has id number NaN');
    edit('tokenizer.json', (json) => ({ ...json, model: { ...(json.model as object), vocab: { a: 1e9 } } }));
    expect(() => loadTokenizer(folder)).toThrow('tokenizer.json: the token string "a" has id number 1000000000');
  });

  it('refuses what breaks only in use, and takes nonsense in fields that count for nothing as absent', () => {
    editConfig(folder, { tokenizer_class: { toString: 1 }, chat_template: [null] });
    expect(loadTokenizer(folder).chatTemplate).toBeUndefined();
    edit('tokenizer.json', (json) => ({
      ...json,
      post_processor: { type: 'TemplateProcessing', single: [1], pair: [] },
    }));
    expect(() => loadTokenizer(folder)).toThrow('tokenizer.json: not a tokenizer that @huggingface/tokenizers can run');
  });

  it('never gives an id that is none: a piece outside of the vocabulary is left out, as in tokenizers, or refused', () => {
    const onlyA = (more: object) =>
      edit('tokenizer.json', (json) => ({ ...json, added_tokens: [], post_processor: null, model: { type: 'BPE', vocab: { a: 0 }, merges: [], ...more } })); // prettier-ignore
    editConfig(folder, { added_tokens_decoder: undefined, eos_token: null, bos_token: null });
    onlyA({});
    expect(loadTokenizer(folder).encode('ab')).toEqual([0]);
    onlyA({ unk_token: '<unk>' });
    expect(() => loadTokenizer(folder).encode('ab')).toThrow(
      'tokenizer.json: the vocabulary lacks a piece of the text',
    );
  });

  it('leaves out ids outside the vocabulary, and decodes nothing to nothing', () => {
    const tokenizer = loadTokenizer(folder);
    expect(tokenizer.decode([])).toBe('');
    expect(tokenizer.decode([99_999])).toBe('');
    expect(tokenizer.decode([...tokenizer.encode('tea', { addSpecialTokens: false }), 99_999])).toBe('tea');
  });

  it('gives up a chat template that takes too long', () => {
    writeFileSync(join(folder, 'chat_template.jinja'), '{% for i in range(2000000) %}x{% endfor %}'); // 3,000,000 took 30 s
    expect(() => loadTokenizer(folder).applyChatTemplate([])).toThrow(
      `${folder}: the tokenizer's chat template failed: Script execution timed out after 5000ms`,
    );
  }, 20_000);

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
    symlinkSync('/dev/zero', file);
    expect(() => loadTokenizer(folder)).toThrow('tokenizer.json: cannot be read as JSON (a folder or device)');
    rmSync(file);
    expect(() => loadTokenizer(folder)).toThrow(
      `${file}: no such file. A model folder needs a tokenizer.json (a tokenizer.model alone is not read`,
    );
  });

  function edit(name: string, change: (json: Record<string, unknown>) => object): void {
    write(name, change(JSON.parse(readFileSync(join(folder, name), 'utf8')) as Record<string, unknown>));
  }

  function write(name: string, json: object): void {
    writeFileSync(join(folder, name), JSON.stringify(json));
  }

  function addToTokenizerJson(token: object): void {
    const json = JSON.parse(readFileSync(join(folder, 'tokenizer.json'), 'utf8')) as { added_tokens: object[] };
    write('tokenizer.json', { ...json, added_tokens: [...json.added_tokens, token] });
  }
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
