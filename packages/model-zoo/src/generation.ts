import { UserError } from '@blockwise/errors';
import { seededRandom } from './random.ts';
import { chooseToken } from './sampling.ts';
import type { SamplingOptions } from './sampling.ts';

/** A model that keeps what it has computed for the tokens so far (a key-value cache) in a state of its own making. */
export interface CachedDecoder<State> {
  start(): State;
  /** Appends ids [T] to the state and returns the logits [V] of the last position. */
  step(ids: Int32Array, state: State): Float32Array | Promise<Float32Array>;
  /** Frees the state. */
  dispose(state: State): void;
}

/** What is generated, and what ends it. */
export interface GenerationOptions extends SamplingOptions {
  /** Most tokens to generate. */
  maxNewTokens: number;
  /** Determines what is drawn; default 0. */
  seed?: number;
  /** Tokens that end the text (a config's eos_token_id). */
  eosTokenIds?: readonly number[];
  /** Strings that end the text; they are cut off. Need `decode`. */
  stopStrings?: readonly string[];
  /** The tokenizer's text of all tokens generated so far, special ones skipped; without it there is no text. */
  decode?: (ids: readonly number[]) => string;
}

/** One token of a text, as it comes. */
export interface GeneratedToken {
  readonly id: number;
  /** Text this token makes certain; '' while a character is incomplete or a stop string may be under way. */
  readonly text: string;
}

/** A generated text. */
export interface Generation {
  /** Generated tokens without the prompt; the one that ended the text is the last. */
  readonly ids: readonly number[];
  readonly text: string;
  readonly finishReason: 'eos' | 'stop' | 'length';
}

/**
 * Generates token by token; the texts yielded add up to the final text. Ending the loop early frees the state.
 * @param promptIds ids of at least one token.
 * @throws UserError naming each option that is out of range.
 */
export async function* streamGeneration<State>(
  decoder: CachedDecoder<State>,
  promptIds: readonly number[],
  options: GenerationOptions,
): AsyncGenerator<GeneratedToken, Generation, undefined> {
  checkOptions(promptIds, options);
  const { maxNewTokens, seed = 0, eosTokenIds = [], stopStrings = [], decode } = options;
  const random = seededRandom(seed);
  const ids: number[] = [];
  let emitted = '';
  const state = decoder.start();
  try {
    let input = Int32Array.from(promptIds);
    for (;;) {
      const id = chooseToken(await decoder.step(input, state), [...promptIds, ...ids], random, options);
      ids.push(id);
      const decoded = decode?.(ids) ?? '';
      const stop = firstStop(decoded, stopStrings);
      const finishReason = eosTokenIds.includes(id)
        ? 'eos'
        : stop >= 0
          ? 'stop'
          : ids.length === maxNewTokens
            ? 'length'
            : undefined;
      const text =
        stop >= 0
          ? decoded.slice(0, stop)
          : finishReason
            ? decoded
            : decoded.slice(0, certainLength(decoded, stopStrings));
      yield { id, text: text.slice(emitted.length) };
      if (finishReason) return { ids, text, finishReason };
      if (text.length > emitted.length) emitted = text;
      input = Int32Array.of(id);
    }
  } finally {
    decoder.dispose(state);
  }
}

/** `streamGeneration` to its end; `onToken` sees each token as it comes. */
export async function generate<State>(
  decoder: CachedDecoder<State>,
  promptIds: readonly number[],
  options: GenerationOptions & { onToken?: (token: GeneratedToken) => void },
): Promise<Generation> {
  const stream = streamGeneration(decoder, promptIds, options);
  for (;;) {
    const next = await stream.next();
    if (next.done) return next.value;
    options.onToken?.(next.value);
  }
}

/** Where the earliest stop string begins, or -1. */
function firstStop(text: string, stopStrings: readonly string[]): number {
  const places = stopStrings.map((stop) => text.indexOf(stop)).filter((place) => place >= 0);
  return places.length > 0 ? Math.min(...places) : -1;
}

/**
 * How much of the text later tokens cannot change: all before an incomplete character (U+FFFD) or the beginning of a
 * stop string.
 */
function certainLength(text: string, stopStrings: readonly string[]): number {
  const complete = text.replace(/\uFFFD+$/, '').length;
  const longest = Math.max(0, ...stopStrings.map((stop) => stop.length));
  for (let begin = Math.max(0, complete - longest); begin < complete; begin++) {
    if (stopStrings.some((stop) => stop.startsWith(text.slice(begin, complete)))) return begin;
  }
  return complete;
}

function checkOptions(promptIds: readonly number[], options: GenerationOptions): void {
  const {
    maxNewTokens,
    temperature = 0,
    topK = 0,
    topP = 1,
    repetitionPenalty = 1,
    seed = 0,
    stopStrings = [],
    decode,
  } = options;
  const problems: string[] = [];
  const expect = (holds: boolean, what: string): void => void (holds || problems.push(what));
  expect(
    promptIds.length > 0,
    'the prompt has no tokens, expected at least one (the tokenizer adds <s> where it is asked to)',
  );
  const wrong = promptIds.find((id) => (id | 0) !== id);
  expect(wrong === undefined, `the prompt: found ${wrong}, expected token ids, integers of the vocabulary`);
  expect(
    Number.isInteger(maxNewTokens) && maxNewTokens > 0,
    `maxNewTokens: found ${maxNewTokens}, expected an integer above zero`,
  );
  expect(
    Number.isFinite(temperature) && temperature >= 0,
    `temperature: found ${temperature}, expected 0 (most likely token) or above`,
  );
  expect(Number.isInteger(topK) && topK >= 0, `topK: found ${topK}, expected 0 (all) or a number of tokens`);
  expect(topP > 0 && topP <= 1, `topP: found ${topP}, expected a probability above 0, at most 1`);
  expect(
    Number.isFinite(repetitionPenalty) && repetitionPenalty > 0,
    `repetitionPenalty: found ${repetitionPenalty}, expected above 0`,
  );
  expect(Number.isSafeInteger(seed), `seed: found ${seed}, expected an integer`);
  expect(
    temperature > 0 || (topK === 0 && topP === 1),
    'topK and topP choose what is drawn: they need a temperature above 0',
  );
  expect(
    stopStrings.every((stop) => stop !== ''),
    'stopStrings: found an empty string, which would stop at once',
  );
  expect(
    stopStrings.length === 0 || decode !== undefined,
    'stopStrings need decode, which gives the text they are looked for in',
  );
  if (problems.length > 0) throw UserError.of('generation', problems);
}
