import { UserError } from '@blockwise/errors';
import type { Random } from './random.ts';

/** How the next token is chosen; each at its default does nothing. */
export interface SamplingOptions {
  /** 0 (default) takes the most likely token; above, logits are divided by it and a token is drawn. */
  temperature?: number;
  /** Keep the k most likely tokens; 0 (default) keeps all. */
  topK?: number;
  /** Keep the fewest most likely tokens whose probabilities reach this sum; 1 (default) keeps all. */
  topP?: number;
  /**
   * Above 1 makes tokens of the prompt and the text so far less likely (Keskar et al. 2019, section 4.1); 1 (default)
   * leaves them.
   */
  repetitionPenalty?: number;
}

/**
 * Logits [V] as a token is drawn from them, in the order of transformers' generate(): repetition penalty, and when
 * sampling temperature, top-k, top-p. Borrows its input, returns a new array (or the same where nothing changes).
 * @param ids prompt and generated tokens so far.
 */
export function processLogits(
  logits: Float32Array,
  ids: Iterable<number>,
  options: SamplingOptions = {},
): Float32Array {
  const { temperature = 0, topK = 0, topP = 1, repetitionPenalty = 1 } = options;
  let processed = logits;
  if (repetitionPenalty !== 1) processed = penalizeRepetition(processed, ids, repetitionPenalty);
  if (temperature === 0) return processed;
  if (temperature !== 1) processed = processed.map((logit) => logit / temperature);
  if (topK > 0) processed = keepTopK(processed, topK);
  if (topP < 1) processed = keepTopP(processed, topP);
  return processed;
}

/**
 * The next token: the most likely one at temperature 0, else one drawn from the processed logits. @throws UserError
 * where logits are NaN.
 */
export function chooseToken(
  logits: Float32Array,
  ids: Iterable<number>,
  random: Random,
  options: SamplingOptions = {},
): number {
  const processed = processLogits(logits, ids, options);
  return (options.temperature ?? 0) === 0 ? argmax(processed) : drawToken(processed, random);
}

/** Index of the largest logit, the first of equals. @throws UserError where one is NaN. */
export function argmax(logits: Float32Array): number {
  let best = 0;
  for (let id = 0; id < logits.length; id++) {
    if (Number.isNaN(logits[id])) throw notANumber(id);
    if (logits[id]! > logits[best]!) best = id;
  }
  return best;
}

/**
 * Divides positive and multiplies negative logits of the ids by the penalty, each id once
 * (RepetitionPenaltyLogitsProcessor).
 */
export function penalizeRepetition(logits: Float32Array, ids: Iterable<number>, penalty: number): Float32Array {
  const penalized = logits.slice();
  for (const id of new Set(ids)) penalized[id] = logits[id]! < 0 ? logits[id]! * penalty : logits[id]! / penalty;
  return penalized;
}

/** -Infinity for all below the k-th largest logit; equals of the k-th stay (TopKLogitsWarper). */
export function keepTopK(logits: Float32Array, k: number): Float32Array {
  if (k >= logits.length) return logits;
  const least = logits.slice().sort()[logits.length - k]!;
  return logits.map((logit) => (logit < least ? -Infinity : logit));
}

/**
 * -Infinity for the least likely tokens whose probabilities together are at most 1 - p; the most likely one always
 * stays (TopPLogitsWarper, nucleus sampling of Holtzman et al. 2020).
 */
export function keepTopP(logits: Float32Array, p: number): Float32Array {
  const candidates = Array.from(logits.keys()).filter((id) => logits[id] !== -Infinity);
  candidates.sort((a, b) => logits[a]! - logits[b]!);
  candidates.pop(); // the most likely
  const weights = softmax(logits);
  const kept = logits.slice();
  let sum = 0;
  for (const id of candidates) {
    sum += weights[id]!;
    if (sum > 1 - p) break;
    kept[id] = -Infinity;
  }
  return kept;
}

/** Probabilities [V] of logits [V], in float64. @throws UserError where a logit is NaN or no logit is finite. */
export function softmax(logits: Float32Array): Float64Array {
  const largest = logits[argmax(logits)]!;
  if (!Number.isFinite(largest))
    throw new UserError(`the largest logit is ${largest}: the model's weights have overflowed`);
  const weights = Float64Array.from(logits, (logit) => Math.exp(logit - largest));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return weights.map((weight) => weight / sum);
}

/** Draws a token by its probability under softmax. One random number is used. */
export function drawToken(logits: Float32Array, random: Random): number {
  const probabilities = softmax(logits);
  let rest = random();
  let drawn = 0;
  for (const [id, probability] of probabilities.entries()) {
    if (probability === 0) continue;
    drawn = id; // the last one takes what rounding leaves over
    rest -= probability;
    if (rest < 0) break;
  }
  return drawn;
}

function notANumber(id: number): UserError {
  return new UserError(
    `the logit of token ${id} is not a number: the model's weights hold NaN, or its training diverged`,
  );
}
