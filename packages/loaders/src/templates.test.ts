import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { Template as JinjaTemplate } from '@huggingface/jinja';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { encodeConversation, encodeTexts, ignoreIndex } from './examples.ts';
import type { Conversation } from './records.ts';
import { loadTemplate, templateNames } from './templates.ts';
import { goldenPath, hasShared, readGolden, sharedData } from './test-data.ts';
import { loadTokenizer, type Tokenizer } from './tokenizer.ts';

interface Golden {
  conversations: Conversation[];
  texts: string[];
  cases: {
    tokenizer: string;
    template: string;
    examples: { cutoffLen: number; inputIds: number[]; labels: number[] }[];
    prompts: number[][];
    stopTokenIds: number[];
    texts?: number[][];
  }[];
}

// tools/golden/llamafactory_data.py; commits inside.
const golden = readGolden<Golden>('llamafactory.json');
const { conversations } = golden;
const folders: Record<string, string> = {
  'byte-level': goldenPath('byte-level'),
  llama2: `${sharedData}/models/llama2_tokenizer`,
};

describe('templates equal LLaMA-Factory token for token', () => {
  for (const { tokenizer: name, template: templateName, examples, prompts, stopTokenIds, texts } of golden.cases) {
    const present = name === 'byte-level' || hasShared('models/llama2_tokenizer');
    it.skipIf(!present)(
      `${templateName} with the ${name} tokenizer: ${examples.length} examples, whole and cut`,
      () => {
        const tokenizer = loadTokenizer(folders[name]!);
        const template = loadTemplate(templateName, tokenizer);
        for (const [i, expected] of examples.entries()) {
          const { example } = encodeConversation(
            template,
            conversations[i % conversations.length]!,
            expected.cutoffLen,
          );
          const { cutoffLen } = expected;
          const found = { cutoffLen, inputIds: [...example.inputIds], labels: [...example.labels] };
          expect(found).toEqual(expected);
        }
        for (const [i, prompt] of prompts.entries()) {
          const { messages, ...rest } = conversations[i]!;
          expect(template.encodePrompt({ ...rest, messages: messages.slice(0, -1) })).toEqual(prompt);
        }
        expect([...template.stopTokenIds].sort((a, b) => a - b)).toEqual(stopTokenIds);
        if (texts !== undefined) {
          const ids = golden.texts.map((text) => tokenizer.encode(text, { addSpecialTokens: false }));
          expect(encodeTexts(tokenizer, template, ids, 16).examples.map(({ inputIds }) => [...inputIds])).toEqual(
            texts,
          );
        }
      },
    );
  }

  it("covers every template but the tokenizer's own", () => {
    const covered = new Set(golden.cases.map(({ template }) => template));
    expect(templateNames.filter((name) => !covered.has(name))).toEqual(['chat', 'tokenizer']);
  });
});

describe("the tokenizer's own chat template", () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'blockwise-template-'));
    cpSync(goldenPath('byte-level'), folder, { recursive: true });
  });
  afterEach(() => rmSync(folder, { recursive: true }));
  const setTemplate = (chat_template: string | null): void => {
    const file = join(folder, 'tokenizer_config.json');
    writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, 'utf8')), chat_template }));
  };

  it('trains each answer with its end marker, and gives the ids of apply_chat_template', () => {
    const tokenizer = loadTokenizer(folder);
    const template = loadTemplate('tokenizer', tokenizer);
    const talk = conversations[3]!;
    const { example } = encodeConversation(template, talk, 2048);
    const text = tokenizer.applyChatTemplate([{ role: 'system', content: talk.system! }, ...talk.messages]);
    expect(tokenizer.decode(example.inputIds)).toBe(text);
    expect([...example.inputIds]).toEqual(tokenizer.encode(text, { addSpecialTokens: false }));
    const trained = [...example.labels].filter((label) => label !== ignoreIndex);
    expect(tokenizer.decode(trained)).toBe('1<|eot_id|>2<|eot_id|>');
    expect(example.labels.every((label, t) => label === ignoreIndex || label === example.inputIds[t])).toBe(true);
  });

  it('agrees with the llama3 template where the two formats agree', () => {
    const tokenizer = loadTokenizer(folder);
    const [own, llama3] = ['chat', 'llama3'].map((name) => loadTemplate(name, tokenizer));
    for (const talk of conversations) {
      // The model's template trims messages and parses no header inside them.
      if (talk.messages.some(({ content }) => content !== content.trim())) continue;
      expect(own!.encodeTurns(talk)).toEqual(llama3!.encodeTurns(talk));
      const prompt = { ...talk, messages: talk.messages.slice(0, -1) };
      expect(own!.encodePrompt(prompt)).toEqual(llama3!.encodePrompt(prompt));
    }
    expect(own!.stopTokenIds).toEqual(['<|end_of_text|>', '<|eot_id|>'].map((token) => tokenizer.tokenId(token)));
  });

  it('gives a token that spans prompt and answer to the answer', () => {
    setTemplate(
      "{% for m in messages %}{{ m['role'][0] + ':' + m['content'] }}{% if m['role'] == 'user' %}{{ ' t' }}{% endif %}{% endfor %}",
    );
    const tokenizer = loadTokenizer(folder);
    // ' t' + 'a:he' is encoded as one text: whatever merges over the boundary is learnt, nothing is lost or doubled.
    const talk: Conversation = {
      messages: [
        { role: 'user', content: 'x' },
        { role: 'assistant', content: 'he' },
      ],
    };
    const [turn] = loadTemplate('tokenizer', tokenizer).encodeTurns(talk);
    const ids = tokenizer.encode('u:x ta:he', { addSpecialTokens: false });
    expect([...turn!.source, ...turn!.target]).toEqual(ids);
    expect(tokenizer.decode(turn!.target)).toContain('a:he');
  });

  it('is refused where it is missing or rewrites what was said', () => {
    setTemplate("{% for m in messages %}{{ m['content'] if loop.last else '...' }}{% endfor %}");
    const rewriting = loadTemplate('tokenizer', loadTokenizer(folder));
    expect(() => rewriting.encodeTurns(conversations[2]!)).toThrow(
      /the chat template of .* rewrites earlier turns .*; name a template instead \(default, alpaca/,
    );
    setTemplate(null);
    expect(() => loadTemplate('tokenizer', loadTokenizer(folder))).toThrow(
      /has no chat template in tokenizer_config\.json; name a template instead/,
    );
  });
});

describe('the chat template of a template', () => {
  for (const { tokenizer: name, template: templateName, prompts } of golden.cases) {
    const present = name === 'byte-level' || hasShared('models/llama2_tokenizer');
    it.skipIf(!present)(`${templateName} with the ${name} tokenizer renders what is trained on`, () => {
      const tokenizer = loadTokenizer(folders[name]!);
      const { chatTemplate, encodeTurns } = loadTemplate(templateName, tokenizer);
      const { eos, bos } = tokenizer;
      const tokens = { ...(bos && { bos_token: bos.token }), ...(eos && { eos_token: eos.token }) };
      const render = (messages: object[]) => new JinjaTemplate(chatTemplate!).render({ messages, ...tokens });
      for (const [i, conversation] of conversations.entries()) {
        const { messages, system } = conversation;
        const all = system ? [{ role: 'system', content: system }, ...messages] : messages;
        const turns = encodeTurns(conversation).flatMap(({ source, target }) => [...source, ...target]);
        expect(sameText(tokenizer, render(all), turns)).toBe(true);
        expect(sameText(tokenizer, render(all.slice(0, -1)), prompts[i]!)).toBe(true);
      }
    });
  }

  /** Ids of parts that were encoded one by one decode to the text but for spaces that SentencePiece puts before each part. */
  function sameText(tokenizer: Tokenizer, text: string, ids: readonly number[]): boolean {
    const bare = (some: string) => some.replaceAll(' ', '');
    return bare(tokenizer.decode(tokenizer.encode(text, { addSpecialTokens: false }))) === bare(tokenizer.decode(ids));
  }
});

describe('loadTemplate', () => {
  it('offers near matches and the list for an unknown name', () => {
    const tokenizer = loadTokenizer(goldenPath('byte-level'));
    expect(() => loadTemplate('lama2', tokenizer)).toThrow(
      'template: unknown template "lama2". Did you mean llama2 or llama2_zh or llama3? Known templates: alpaca, chat, default, empty, llama2, llama2_zh, llama3, mistral, tokenizer, vanilla, vicuna, zephyr.',
    );
    expect(() => loadTemplate('toString', tokenizer)).toThrow('unknown template "toString"');
  });

  it.skipIf(!hasShared('models/llama2_tokenizer'))('names all tokens that the tokenizer lacks', () => {
    const tokenizer = loadTokenizer(folders.llama2!);
    expect(() => loadTemplate('llama3', tokenizer)).toThrow(
      /llama3 needs <\|start_header_id\|>, <\|end_header_id\|>, <\|eot_id\|>, which the tokenizer of .* does not have; use the template this model was made for/,
    );
  });

  it('misses an end token, and proposes no template that needs one as well', () => {
    const tokenizer = { ...loadTokenizer(goldenPath('byte-level')), eos: undefined };
    for (const name of templateNames.filter((some) => some !== 'llama3')) {
      expect(() => loadTemplate(name, tokenizer)).toThrow(
        `template: ${name} needs an end token, and the tokenizer of ${tokenizer.folder} names none; set "eos_token" in its tokenizer_config.json to the token that ends a text.`,
      );
    }
    expect(loadTemplate('llama3', tokenizer).stopTokenIds).toContain(tokenizer.tokenId('<|eot_id|>'));
    const bare = { ...tokenizer, tokenId: () => undefined };
    expect(() => loadTemplate('llama3', bare)).toThrow(/does not have; use the template this model was made for\.$/);
  });
});
