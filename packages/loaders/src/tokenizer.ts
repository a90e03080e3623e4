import { isObject, UserError } from '@blockwise/errors';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { Script } from 'node:vm';
import { Template as JinjaTemplate } from '@huggingface/jinja';
import { Tokenizer as TokenizersJs } from '@huggingface/tokenizers';
import { appendAddedTokens, refuseWholeWordTokens } from './added-tokens.ts';
import { describe, type JsonRecord } from './json-record.ts';
import { createStreamDecoder } from './stream-decoder.ts';
import type { StreamDecoder } from './stream-decoder.ts';

/** A special token: its text and its id in the vocabulary. */
export interface SpecialToken {
  readonly token: string;
  readonly id: number;
}

/** A message as a tokenizer's own chat template sees it. */
export interface ChatMessage {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

export interface Tokenizer {
  /** The folder it was loaded from. */
  readonly folder: string;
  /** The highest token id + 1: the least number of rows an embedding needs. */
  readonly vocabSize: number;
  readonly bos: SpecialToken | undefined;
  readonly eos: SpecialToken | undefined;
  /** The padding token; as in LLaMA-Factory the end token where none is named. */
  readonly pad: SpecialToken | undefined;
  readonly unk: SpecialToken | undefined;
  /** `add_bos_token` of tokenizer_config.json. */
  readonly addBosToken: boolean;
  /** The tokenizer's own chat template (Jinja source), where it has one. */
  readonly chatTemplate: string | undefined;
  /** sha256 (hex) over the files that decide how text becomes ids. */
  readonly fingerprint: string;
  /**
   * Token ids of a text. `addSpecialTokens` (default true) runs the post-processor, which usually puts bos in front.
   */
  encode(text: string, options?: { addSpecialTokens?: boolean }): number[];
  /**
   * The text of token ids; ids outside the vocabulary are left out, as in `tokenizers`. `skipSpecialTokens` defaults
   * to false.
   */
  decode(ids: ArrayLike<number>, options?: { skipSpecialTokens?: boolean }): string;
  /** The id of a token given by its exact piece, or undefined. */
  tokenId(token: string): number | undefined;
  /** A decoder that takes one id at a time. `skipSpecialTokens` defaults to false. */
  streamDecoder(options?: { skipSpecialTokens?: boolean }): StreamDecoder;
  /**
   * The conversation as text by the tokenizer's own chat template.
   * @throws UserError when there is no chat template, or it refuses the messages.
   */
  applyChatTemplate(messages: readonly ChatMessage[], options?: { addGenerationPrompt?: boolean }): string;
}

/** The special tokens of Llama's own class, where no file names others. */
const llamaTokens: JsonRecord = { bos_token: '<s>', eos_token: '</s>', unk_token: '<unk>' };

/**
 * Loads the tokenizer of a model folder: tokenizer.json and, where they are there, tokenizer_config.json,
 * special_tokens_map.json, added_tokens.json and chat_template.jinja, run by @huggingface/tokenizers. Ids equal those
 * of the Python package `tokenizers` on the same tokenizer.json; special and added tokens are those of transformers.
 * @throws UserError naming the file when one is broken or contradicts tokenizer.json, or tokenizer.json is missing.
 */
export function loadTokenizer(folder: string): Tokenizer {
  const hash = createHash('sha256');
  const json = readJson(join(folder, 'tokenizer.json'), hash);
  const optional = (name: string): JsonRecord =>
    existsSync(join(folder, name)) ? readJson(join(folder, name), hash) : {};
  const config = optional('tokenizer_config.json');
  // As in transformers: these older files count only beside a config without added_tokens_decoder.
  const older = (name: string): JsonRecord => (config.added_tokens_decoder === undefined ? optional(name) : {});
  const map = older('special_tokens_map.json');
  const added = older('added_tokens.json');
  const chatTemplate = readChatTemplate(folder, config);
  if (chatTemplate !== undefined) hash.update(chatTemplate);
  const { tokenizer_class: name } = config;
  const isLlama = typeof name === 'string' && /^(Code)?LlamaTokenizer/.test(name);
  const named: JsonRecord = { ...(isLlama && llamaTokens), ...config, ...map };
  appendAddedTokens(folder, json, { config, added, special: specialTexts(named) });
  refuseWholeWordTokens(folder, json);
  const inner = construct(folder, json, config);
  const special = (field: string): SpecialToken | undefined =>
    specialToken(folder, inner, { named, config, map }, field);
  const [bos, eos, unk] = [special('bos_token'), special('eos_token'), special('unk_token')];
  const pad = special('pad_token');
  const cleanUp = config.clean_up_tokenization_spaces === true;
  const vocabSize = [...inner.get_vocab().values()].reduce((highest, id) => Math.max(highest, id), -1) + 1;
  const tokenizer: Tokenizer = {
    folder,
    vocabSize,
    bos,
    eos,
    pad: pad ?? eos,
    unk,
    // As transformers: a setting of Llama's own class, and there on by default.
    addBosToken: isLlama && config.add_bos_token !== false,
    chatTemplate,
    fingerprint: hash.digest('hex'),
    encode: (text, { addSpecialTokens = true } = {}) => {
      const ids: (number | undefined)[] = inner.encode(text, { add_special_tokens: addSpecialTokens }).ids;
      return ids.includes(undefined) ? knownIds(folder, json, ids) : (ids as number[]);
    },
    decode: (ids, { skipSpecialTokens = false } = {}) => {
      const known = Array.from(ids).filter((id) => inner.id_to_token(id) !== undefined);
      if (known.length === 0) return '';
      // tokenizers.js would clean up spaces unless told not to; `tokenizers` and transformers do it only on request.
      return inner.decode(known, { skip_special_tokens: skipSpecialTokens, clean_up_tokenization_spaces: cleanUp });
    },
    tokenId: (token) => inner.token_to_id(token),
    streamDecoder: (options) => createStreamDecoder((ids) => tokenizer.decode(ids, options)),
    applyChatTemplate: chatRenderer(folder, chatTemplate, { bos, eos, pad, unk }),
  };
  return tokenizer;
}

/** As `tokenizers`, which leaves out what a vocabulary has no piece for, but where an unknown token is named and is not there either. */
function knownIds(folder: string, json: JsonRecord, ids: readonly (number | undefined)[]): number[] {
  const { unk_token: unk } = json.model as JsonRecord;
  if (typeof unk !== 'string') return ids.filter((id) => id !== undefined);
  throw new UserError(
    `${join(folder, 'tokenizer.json')}: the vocabulary lacks a piece of the text, and its unk_token ${JSON.stringify(unk)} too; download the file again.`,
  );
}

function construct(folder: string, json: JsonRecord, config: JsonRecord): TokenizersJs {
  try {
    const vocab = (json.model as JsonRecord | null | undefined)?.vocab;
    if (typeof vocab !== 'object' || vocab === null) throw new Error(`model.vocab is ${describe(vocab)}`);
    splitAtWords(json);
    const inner = new TokenizersJs(json, config);
    decodeByteRunsAsRust(inner);
    // Some of what is broken shows in use alone.
    const ids = inner.encode('Once upon a time').ids.filter((id: number | undefined) => id !== undefined);
    if (ids.length > 0) inner.decode(ids);
    return inner;
  } catch (error) {
    throw new UserError(
      `${join(folder, 'tokenizer.json')}: not a tokenizer that @huggingface/tokenizers can run (${(error as Error).message}). ` +
        'Download the file again, or save the tokenizer again with transformers (save_pretrained).',
    );
  }
}

function specialToken(
  folder: string,
  inner: TokenizersJs,
  { named, config, map }: Record<'named' | 'config' | 'map', JsonRecord>,
  field: string,
): SpecialToken | undefined {
  const token = tokenText(named[field]);
  if (token === undefined) return undefined;
  const id = inner.token_to_id(token);
  if (id !== undefined) return { token, id };
  // A default of the class, or of an older file, that this vocabulary does without.
  if (field in map || !(field in config)) return undefined;
  throw new UserError(
    `${join(folder, 'tokenizer_config.json')}: "${field}" is ${JSON.stringify(token)}, which tokenizer.json does not have; ` +
      'the two files must come from the same model.',
  );
}

/** The texts of all special tokens in fields such as `pad_token` and `additional_special_tokens`. */
function specialTexts(named: JsonRecord): Set<string | undefined> {
  const fields = Object.keys(named).filter((name) => /_tokens?$/.test(name));
  return new Set(fields.flatMap((name) => [named[name]].flat().map(tokenText)));
}

/** Milliseconds for the first rendering, which takes a few: a template is a program, from anybody, and may loop without end. */
const patience = 5000;
const limited = new Script('render()');

/** `applyChatTemplate`, whose template is parsed on first use: few runs need it. */
function chatRenderer(
  folder: string,
  source: string | undefined,
  special: Record<'bos' | 'eos' | 'pad' | 'unk', SpecialToken | undefined>,
): Tokenizer['applyChatTemplate'] {
  const known = Object.entries(special).flatMap(([name, value]) => (value ? [[`${name}_token`, value.token]] : []));
  // Those that apply_chat_template always gives.
  const context = { tools: null, documents: null, ...Object.fromEntries(known) };
  let jinja: JinjaTemplate | undefined;
  let isQuick = false;
  return (messages, { addGenerationPrompt = false } = {}) => {
    if (source === undefined) {
      throw new UserError(`${folder}: the tokenizer has no chat template (chat_template in tokenizer_config.json).`);
    }
    try {
      const template = (jinja ??= new JinjaTemplate(source));
      const render = () => template.render({ messages, add_generation_prompt: addGenerationPrompt, ...context });
      const text = isQuick ? render() : (limited.runInNewContext({ render }, { timeout: patience }) as string);
      isQuick = true;
      return text;
    } catch (error) {
      throw new UserError(`${folder}: the tokenizer's chat template failed: ${(error as Error).message}`);
    }
  };
}

function readJson(path: string, hash: { update(data: Uint8Array): unknown }): JsonRecord {
  if (!existsSync(path)) {
    throw new UserError(
      `${path}: no such file. A model folder needs a tokenizer.json (a tokenizer.model alone is not read: ` +
        'convert it with transformers, AutoTokenizer.from_pretrained(...).save_pretrained(...)).',
    );
  }
  try {
    if (!statSync(path).isFile()) throw new Error('a folder or device'); // whose bytes may have no end
    const bytes = readFileSync(path);
    hash.update(bytes);
    const value: unknown = JSON.parse(bytes.toString('utf8'));
    if (!isObject(value)) throw new Error('expected a JSON object');
    return value;
  } catch (error) {
    throw new UserError(`${path}: cannot be read as JSON (${(error as Error).message}). Download the file again.`);
  }
}

/**
 * chat_template.jinja, else `chat_template` of the config: a string, or named templates of which "default" is taken.
 */
function readChatTemplate(folder: string, config: JsonRecord): string | undefined {
  const file = join(folder, 'chat_template.jinja');
  if (existsSync(file)) return readFileSync(file, 'utf8');
  const field = config.chat_template;
  if (typeof field === 'string') return field;
  if (!Array.isArray(field)) return undefined;
  const template = field.filter(isObject).find(({ name }) => name === 'default')?.template;
  return typeof template === 'string' ? template : undefined;
}

/** A token in tokenizer_config.json is its text or an AddedToken object. */
function tokenText(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  const content = (value as { content?: unknown } | null | undefined)?.content;
  return typeof content === 'string' ? content : undefined;
}

/**
 * A SentencePiece BPE without a pre-tokenizer (Llama 1 and 2) merges over the whole text at once, which is slow and
 * cannot be cached. Where no merge makes a piece with '▁' after another character, no merge crosses the start of a
 * word, so cutting there first gives the same ids, in half the time on Alpaca-GPT4. Changes tokenizer.json's
 * object in place.
 */
function splitAtWords(json: JsonRecord): void {
  const model = json.model as JsonRecord | undefined;
  if (json.pre_tokenizer != null || model?.type !== 'BPE' || model.ignore_merges === true) return;
  if (model.continuing_subword_prefix || model.end_of_word_suffix || !Array.isArray(model.merges)) return;
  const crosses = (merge: unknown): boolean =>
    /[^▁]▁/.test(Array.isArray(merge) ? merge.join('') : String(merge).replace(' ', ''));
  if (model.merges.some(crosses)) return;
  json.pre_tokenizer = { type: 'Split', pattern: { Regex: '▁*[^▁]+|▁+' }, behavior: 'Isolated', invert: true };
}

/**
 * tokenizers.js decodes a run of byte pieces leniently and drops a byte order mark; the Rust package keeps the mark,
 * and writes one U+FFFD for each byte of a run that is not UTF-8 as a whole (decoders/byte_fallback.rs).
 */
function decodeByteRunsAsRust({ decoder }: TokenizersJs): void {
  const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  const decodeRun = (bytes: Uint8Array): string => {
    try {
      return strict.decode(bytes);
    } catch {
      return '\uFFFD'.repeat(bytes.length);
    }
  };
  // The package exports these classes without their types.
  type Part = { config?: { type?: string }; decoders?: Part[]; text_decoder?: { decode: typeof decodeRun } };
  const whole = decoder as Part | null;
  for (const part of whole?.decoders ?? [whole]) {
    if (part?.config?.type === 'ByteFallback') part.text_decoder = { decode: decodeRun };
  }
}
