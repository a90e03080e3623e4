import { isObject, UserError } from '@blockwise/errors';
import { join } from 'node:path';
import { describe, type JsonRecord } from './json-record.ts';

/** Far above any vocabulary (Gemma's has 262,144): tokenizers.js makes an array up to the highest id, which takes a minute where that is 10^9. */
const maxTokenId = 2 ** 22;

/** @throws UserError unless a token has a text and an id that can be one */
function checkToken(file: string, content: unknown, id: unknown): void {
  const isId = Number.isSafeInteger(id) && (id as number) >= 0 && (id as number) < maxTokenId;
  if (typeof content === 'string' && isId) return;
  throw new UserError(
    `${file}: the token ${describe(content)} has id ${describe(id)}; expected a text and a whole number below ${maxTokenId}. Download the file again.`,
  );
}

/**
 * Appends to tokenizer.json's `added_tokens`, in place, those that are declared outside of it, as transformers does: in `added_tokens_decoder` of
 * tokenizer_config.json or, where that has none, in added_tokens.json. `special` are the texts of special tokens.
 * @throws UserError when a token is none, or a declared id is not the one that tokenizer.json gives the token.
 */
export function appendAddedTokens(
  folder: string,
  json: JsonRecord,
  { config, added, special }: { config: JsonRecord; added: JsonRecord; special: ReadonlySet<unknown> },
): void {
  const vocab = (json.model as JsonRecord | null | undefined)?.vocab;
  const own = join(folder, 'tokenizer.json');
  // What is broken here is found, and told, where the tokenizer is constructed.
  if (typeof vocab !== 'object' || vocab === null) return;
  const pieces = Array.isArray(vocab)
    ? (vocab as unknown[]).map((piece, id) => [Array.isArray(piece) ? (piece[0] as string) : '', id] as const)
    : (Object.entries(vocab) as [string, number][]);
  for (const [piece, id] of pieces) checkToken(own, piece, id);
  const tokens = json.added_tokens;
  if (!Array.isArray(tokens)) return;
  for (const token of tokens as unknown[])
    checkToken(own, isObject(token) ? token.content : token, isObject(token) ? token.id : undefined);
  const decoder = config.added_tokens_decoder;
  const declared = isObject(decoder)
    ? Object.entries(decoder).map(([id, token]) => ({ ...(token as JsonRecord), id: Number(id) }) as AddedToken)
    : Object.entries(added).map(([content, id]) => ({ content, id }) as AddedToken);
  const file = join(folder, isObject(decoder) ? 'tokenizer_config.json' : 'added_tokens.json');
  for (const { content, id } of declared) checkToken(file, content, id);
  const ids = new Map(pieces);
  // As in `tokenizers`: a new token follows all others.
  let next = ids.size;
  const enter = ({ content, id }: AddedToken): void => {
    ids.set(content, id);
    next = Math.max(next, id + 1);
  };
  (tokens as AddedToken[]).forEach(enter);
  const present = new Set((tokens as AddedToken[]).map(({ content }) => content));
  for (const token of declared.sort((a, b) => a.id - b.id)) {
    const { content, id } = token;
    const expected = ids.get(content) ?? next;
    if (id !== expected) {
      throw new UserError(
        `${file}: the added token ${JSON.stringify(content)} has id ${id}, but with tokenizer.json it is ${expected}; ` +
          'the two files must come from the same model.',
      );
    }
    if (present.has(content)) continue;
    tokens.push({ ...token, special: token.special === true || special.has(content) });
    enter(token);
  }
}

/**
 * `single_word` lets a token match whole words only; tokenizers.js passes over it and would match inside of words too.
 * @throws UserError naming the first such token of tokenizer.json's object.
 */
export function refuseWholeWordTokens(folder: string, json: JsonRecord): void {
  if (!Array.isArray(json.added_tokens)) return;
  const token = (json.added_tokens as unknown[]).filter(isObject).find(({ single_word }) => single_word === true);
  if (token === undefined) return;
  throw new UserError(
    `${folder}: the added token ${JSON.stringify(token.content)} has "single_word": true, and tokens that match whole words only are not supported; ` +
      'set it to false in tokenizer.json and tokenizer_config.json where the token may match inside of words too.',
  );
}

/** As in tokenizer.json's `added_tokens`; further flags are handed on as they are. */
interface AddedToken {
  readonly content: string;
  readonly id: number;
  readonly special?: boolean;
}
