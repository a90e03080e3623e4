import { UserError, nearMatches } from '@blockwise/errors';
import type { Conversation } from './records.ts';
import type { Tokenizer } from './tokenizer.ts';
import { chatTemplate } from './chat-template.ts';

/** One exchange as token ids: the prompt part, which is masked, and the answer with its end token, which is trained. */
export interface EncodedTurn {
  readonly source: number[];
  readonly target: number[];
}

/** How a conversation becomes token ids, for one tokenizer. */
export interface Template {
  readonly name: string;
  /**
   * For templates whose answers carry no end token of their own: the token that ends a whole example and is the label
   * of the first token after each earlier answer (LLaMA-Factory's `efficient_eos`).
   */
  readonly finalToken: number | undefined;
  /** The token that ends a text in pretraining. */
  readonly textEnd: number;
  /** The ids that end an answer in generation. */
  readonly stopTokenIds: readonly number[];
  /** Jinja source that renders conversations so, for tokenizer_config.json; undefined where the tokenizer's own is the template. */
  readonly chatTemplate?: string;
  /** Whether that takes the place of a chat template which the tokenizer has (LLaMA-Factory's replace_jinja_template). */
  readonly replacesChatTemplate?: boolean;
  /** The turns of a conversation whose messages alternate user, assistant and end with an assistant's. */
  encodeTurns(conversation: Conversation): EncodedTurn[];
  /** The prompt for the next answer to a conversation whose messages alternate and end with a user's. */
  encodePrompt(conversation: Conversation): number[];
}

type Slot = string | typeof bos | typeof eos;
const bos = Symbol('bos');
const eos = Symbol('eos');

/** The format of a template. Each slot is encoded by itself; `{{content}}` stands for the message. */
interface Format {
  user: Slot[];
  assistant: Slot[];
  system?: Slot[];
  /** Before the first message. */
  prefix?: Slot[];
  /** Before each user message but the first. */
  separator?: Slot[];
  defaultSystem?: string;
  /** The system text goes inside the first user message. */
  systemInUser?: true;
  finalEos?: true;
  /** Takes the place of the tokenizer's end token. */
  eos?: string;
  /** Ends a text in pretraining where it is not the tokenizer's end token. */
  textEnd?: string;
  stopWords?: string[];
  /** See Template. */
  replacesChatTemplate?: true;
}

/**
 * The formats of LLaMA-Factory's src/llamafactory/data/template.py at commit ff6d4d1 (2026-08), token for token.
 * `vanilla`, which later versions dropped, is that of v0.6.3 (src/llmtuner/data/template.py before commit f8e219d).
 */
const formats: Record<string, Format> = {
  alpaca: {
    user: ['### Instruction:\n{{content}}\n\n### Response:\n'],
    assistant: ['{{content}}', eos, '\n\n'],
    defaultSystem:
      'Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n',
    replacesChatTemplate: true,
  },
  default: {
    user: ['Human: {{content}}', eos, '\nAssistant:'],
    assistant: ['{{content}}', eos, '\n'],
    system: ['System: {{content}}', eos, '\n'],
    replacesChatTemplate: true,
  },
  empty: { user: ['{{content}}'], assistant: ['{{content}}'] },
  llama2: {
    user: [bos, '[INST] {{content}} [/INST]'],
    assistant: ['{{content}}', eos],
    system: ['<<SYS>>\n{{content}}\n<</SYS>>\n\n'],
    systemInUser: true,
  },
  llama2_zh: {
    user: [bos, '[INST] {{content}} [/INST]'],
    assistant: ['{{content}}', eos],
    system: ['<<SYS>>\n{{content}}\n<</SYS>>\n\n'],
    defaultSystem: 'You are a helpful assistant. 你是一个乐于助人的助手。',
    systemInUser: true,
  },
  llama3: {
    prefix: [bos],
    user: [
      '<|start_header_id|>user<|end_header_id|>\n\n{{content}}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n',
    ],
    assistant: ['{{content}}<|eot_id|>'],
    system: ['<|start_header_id|>system<|end_header_id|>\n\n{{content}}<|eot_id|>'],
    eos: '<|eot_id|>',
    textEnd: '<|end_of_text|>',
    stopWords: ['<|eom_id|>'],
  },
  mistral: {
    prefix: [bos],
    user: ['[INST] {{content}}[/INST]'],
    assistant: [' {{content}}', eos],
    system: ['{{content}}\n\n'],
    systemInUser: true,
  },
  vicuna: {
    user: ['USER: {{content}} ASSISTANT:'],
    assistant: ['{{content}}', eos],
    defaultSystem:
      'A chat between a curious user and an artificial intelligence assistant. ' +
      "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    replacesChatTemplate: true,
  },
  zephyr: {
    user: ['<|user|>\n{{content}}', eos, '<|assistant|>\n'],
    assistant: ['{{content}}', eos],
    system: ['<|system|>\n{{content}}', eos],
    defaultSystem: 'You are Zephyr, a helpful assistant.',
  },
  vanilla: { user: ['{{content}}'], assistant: ['{{content}}'], separator: ['\n'], finalEos: true },
};

/** The names `loadTemplate` knows; `tokenizer` (or `chat`) is the tokenizer's own chat template. */
export const templateNames: readonly string[] = [...Object.keys(formats), 'tokenizer', 'chat'].sort();

/**
 * The template of that name, for a tokenizer.
 * @throws UserError when the name is unknown, or the tokenizer lacks a token (or the chat template) that the template
 *   needs.
 */
export function loadTemplate(name: string, tokenizer: Tokenizer): Template {
  const own = name === 'tokenizer' || name === 'chat';
  const format = Object.hasOwn(formats, name) ? formats[name] : undefined;
  if (!own && format === undefined) {
    const near = nearMatches(name, templateNames);
    throw new UserError(
      `template: unknown template ${JSON.stringify(name)}.` +
        (near.length > 0 ? ` Did you mean ${near.join(' or ')}?` : '') +
        ` Known templates: ${templateNames.join(', ')}.`,
    );
  }
  // Another template is no way out: only those with an end token of their own do without.
  if (tokenizer.eos === undefined && format?.eos === undefined) {
    throw new UserError(
      `template: ${name} needs an end token, and the tokenizer of ${tokenizer.folder} names none; ` +
        'set "eos_token" in its tokenizer_config.json to the token that ends a text.',
    );
  }
  return format === undefined ? chatTemplate(tokenizer) : formatTemplate(name, format, tokenizer);
}

function formatTemplate(name: string, format: Format, tokenizer: Tokenizer): Template {
  const ids = resolveTokens(name, format, tokenizer);
  const encodeSlots = (slots: readonly Slot[] = [], content = ''): number[] =>
    slots.flatMap((slot) => {
      if (slot === eos) return [ids.eos];
      if (slot === bos) return ids.bos === undefined ? [] : [ids.bos];
      // A function as the replacement: '$' in a message must stay itself.
      const text = (slot as string).replace('{{content}}', () => content);
      return text === '' ? [] : tokenizer.encode(text, { addSpecialTokens: false });
    });
  const encodeMessages = ({ messages, system }: Conversation): number[][] =>
    messages.map(({ role, content }, i) => {
      if (role === 'assistant') return encodeSlots(format.assistant, content);
      if (i > 0) return [...encodeSlots(format.separator), ...encodeSlots(format.user, content)];
      const systemText = system || format.defaultSystem;
      const systemSlots = systemText ? (format.system ?? ['{{content}}']) : [];
      if (format.systemInUser) {
        const inside = systemSlots.map((slot) => String(slot).replace('{{content}}', () => systemText!)).join('');
        return [...encodeSlots(format.prefix), ...encodeSlots(format.user, inside + content)];
      }
      return [
        ...encodeSlots(format.prefix),
        ...encodeSlots(systemSlots, systemText),
        ...encodeSlots(format.user, content),
      ];
    });
  return {
    name,
    finalToken: format.finalEos ? ids.eos : undefined,
    textEnd: ids.textEnd,
    stopTokenIds: ids.stop,
    chatTemplate: jinjaOf(format, tokenizer),
    replacesChatTemplate: format.replacesChatTemplate ?? false,
    encodeTurns: (conversation) => {
      const encoded = encodeMessages(conversation);
      return Array.from({ length: encoded.length / 2 }, (_, turn) => ({
        source: encoded[2 * turn]!,
        target: encoded[2 * turn + 1]!,
      }));
    },
    encodePrompt: (conversation) => encodeMessages(conversation).flat(),
  };
}

/** The ids of the special tokens a format writes, all missing ones in one error. */
function resolveTokens(name: string, format: Format, tokenizer: Tokenizer) {
  // In a format with an end token of its own they are tokens of the vocabulary, elsewhere text.
  const written = format.eos ? Object.values(format).flatMap((value) => (Array.isArray(value) ? value : [])) : [];
  const markers = written.flatMap((slot) => (typeof slot === 'string' ? (slot.match(/<\|\w+\|>/g) ?? []) : []));
  const needed = [...new Set([...markers, ...(format.eos ? [format.eos] : [])])].filter(
    (token) => !format.stopWords?.includes(token),
  );
  const missing = needed.filter((token) => tokenizer.tokenId(token) === undefined);
  const endToken = format.eos === undefined ? tokenizer.eos?.id : tokenizer.tokenId(format.eos);
  if (missing.length > 0) {
    throw new UserError(
      `template: ${name} needs ${missing.join(', ')}, which the tokenizer of ${tokenizer.folder} does not have; ` +
        `use the template this model was made for${tokenizer.eos ? ', or a plain one (default, alpaca, vanilla)' : ''}.`,
    );
  }
  const stopWords = (format.stopWords ?? []).map((token) => tokenizer.tokenId(token));
  return {
    bos: tokenizer.bos?.id,
    eos: endToken!,
    textEnd: (format.textEnd === undefined ? tokenizer.eos?.id : tokenizer.tokenId(format.textEnd)) ?? endToken!,
    stop: [...new Set([endToken!, ...stopWords.filter((id) => id !== undefined)])],
  };
}

/** A format as a chat template: a prompt needs no more for being asked on, since a user's message ends where the answer begins. */
function jinjaOf(format: Format, tokenizer: Tokenizer): string {
  const end = format.eos ?? tokenizer.eos?.token ?? '';
  /** A Jinja expression for slots around the value of another. */
  const text = (slots: readonly Slot[], content: string): string => {
    const quoted = (some: string | undefined) => (some ? JSON.stringify(some) : '');
    const parts = slots.flatMap((slot) => {
      if (slot === eos) return [quoted(end)];
      if (slot === bos) return [tokenizer.bos ? 'bos_token' : ''];
      const [before, after] = (slot as string).split('{{content}}');
      return [quoted(before), after === undefined ? '' : content, quoted(after)];
    });
    return parts.filter((part) => part !== '').join(' + ');
  };
  const put = (expression: string) => (expression === '' ? '' : `{{ ${expression} }}`);
  const system = text(format.system ?? ['{{content}}'], 'system');
  const asked = format.systemInUser
    ? `{% if loop.first and system %}{% set asked = ${system} + message['content'] %}{% else %}{% set asked = message['content'] %}{% endif %}`
    : "{% set asked = message['content'] %}";
  const between = format.separator ? `{% if not loop.first %}${put(text(format.separator, ''))}{% endif %}` : '';
  return [
    "{% if messages and messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}",
    `{% else %}{% set system = ${JSON.stringify(format.defaultSystem ?? '')} %}{% set turns = messages %}{% endif %}`,
    put(text(format.prefix ?? [], '')),
    format.systemInUser ? '' : `{% if system %}${put(system)}{% endif %}`,
    `{% for message in turns %}{% if message['role'] == 'user' %}${between}${asked}${put(text(format.user, 'asked'))}`,
    `{% elif message['role'] == 'assistant' %}${put(text(format.assistant, "message['content']"))}{% endif %}{% endfor %}`,
  ].join('');
}
