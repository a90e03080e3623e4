/**
 * Trains the embedded model's tokenizer: byte-level byte pair encoding (Sennrich et al. 2016, over bytes as in GPT-2), written
 * as a Hugging Face tokenizer.json. The trainer is here because no npm package has one (@huggingface/tokenizers only runs
 * trained ones); on a corpus this small the plain algorithm takes a second. It makes the same choices, ties included, as the
 * trainer of Python's `tokenizers`: the most frequent pair, and of equals the one with the lowest ids.
 */

/** A trained byte pair encoding. */
export interface BytePairs {
  /** Token to id: the special tokens, the 256 bytes, then one token for each merge. */
  vocab: Record<string, number>;
  /** Pairs of tokens in the order they are merged. */
  merges: [string, string][];
}

export const specialTokens = { pad: '<pad>', bos: '<s>', eos: '</s>' } as const;

// GPT-2's rule (the pre-tokenizer ByteLevel): words keep the space before them, and merges never cross words.
const wordPattern = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/** The printable character that stands for each byte in a byte-level vocabulary: itself where printable, else one from 256 on. */
const byteCharacters: readonly string[] = (() => {
  const printable = (byte: number) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : next++));
})();

/**
 * Trains merges until the vocabulary has `vocabSize` tokens or no pair is left.
 *
 * @param counts how often each word (a string of any characters) occurs
 * @param alphabet the tokens to begin with, ids following `firstId`
 */
export function trainMerges(
  counts: ReadonlyMap<string, number>,
  alphabet: readonly string[],
  vocabSize: number,
  firstId = 0,
): BytePairs {
  const tokens = [...alphabet];
  const idOf = new Map(tokens.map((token, i) => [token, i]));
  const words = [...counts].map(([word, count]) => ({ count, ids: [...word].map((part) => idOf.get(part)!) }));
  const merges: [string, string][] = [];
  while (tokens.length + firstId < vocabSize) {
    const best = mostFrequentPair(words);
    if (best === undefined) break;
    const [left, right] = best;
    const merged = tokens[left] + tokens[right];
    // Two merges can spell the same token: it keeps its first id.
    const id = idOf.get(merged) ?? tokens.push(merged) - 1;
    idOf.set(merged, id);
    merges.push([tokens[left], tokens[right]]);
    for (const word of words) word.ids = mergePair(word.ids, left, right, id);
  }
  return { vocab: Object.fromEntries(tokens.map((token, i) => [token, i + firstId])), merges };
}

/** The pair of neighbours with the highest count; of equals the one with the lowest ids. */
function mostFrequentPair(words: readonly { count: number; ids: readonly number[] }[]): [number, number] | undefined {
  const pairs = new Map<number, number>();
  for (const { count, ids } of words) {
    for (let i = 1; i < ids.length; i++) {
      const pair = ids[i - 1] * 2 ** 20 + ids[i];
      pairs.set(pair, (pairs.get(pair) ?? 0) + count);
    }
  }
  let best: number | undefined;
  let most = 0;
  for (const [pair, count] of pairs) {
    if (count > most || (count === most && pair < best!)) [best, most] = [pair, count];
  }
  return best === undefined ? undefined : [Math.floor(best / 2 ** 20), best % 2 ** 20];
}

function mergePair(ids: number[], left: number, right: number, merged: number): number[] {
  const result: number[] = [];
  for (let i = 0; i < ids.length; i++) {
    if (ids[i] === left && ids[i + 1] === right) {
      result.push(merged);
      i++;
    } else {
      result.push(ids[i]);
    }
  }
  return result;
}

/** Trains a byte-level encoding on texts; ids 0 to 2 are `<pad>`, `<s>` and `</s>`. */
export function trainByteLevel(texts: Iterable<string>, vocabSize: number): BytePairs {
  const counts = new Map<string, number>();
  for (const text of texts) {
    for (const [word] of text.matchAll(wordPattern)) {
      const spelled = Array.from(Buffer.from(word, 'utf8'), (byte) => byteCharacters[byte]).join('');
      counts.set(spelled, (counts.get(spelled) ?? 0) + 1);
    }
  }
  const specials = Object.values(specialTokens);
  const { vocab, merges } = trainMerges(counts, [...byteCharacters].sort(), vocabSize, specials.length);
  return { vocab: { ...Object.fromEntries(specials.map((token, id) => [token, id])), ...vocab }, merges };
}

/** The content of tokenizer.json: `<s>` is put before each text, nothing is normalised, any bytes can be encoded. */
export function tokenizerJson({ vocab, merges }: BytePairs): object {
  const { bos } = specialTokens;
  const special = (content: string) => ({
    id: vocab[content],
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  });
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
  const withBos = (sequence: string, type_id: number) => [
    { SpecialToken: { id: bos, type_id } },
    { Sequence: { id: sequence, type_id } },
  ];
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: Object.values(specialTokens).map(special),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: {
      type: 'TemplateProcessing',
      single: withBos('A', 0),
      pair: [...withBos('A', 0), ...withBos('B', 1)],
      special_tokens: { [bos]: { id: bos, ids: [vocab[bos]], tokens: [bos] } },
    },
    decoder: byteLevel,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab,
      merges,
    },
  };
}

/** The content of tokenizer_config.json. */
export function tokenizerConfig(modelMaxLength: number): object {
  return {
    tokenizer_class: 'PreTrainedTokenizerFast',
    bos_token: specialTokens.bos,
    eos_token: specialTokens.eos,
    pad_token: specialTokens.pad,
    add_bos_token: true,
    add_eos_token: false,
    clean_up_tokenization_spaces: false,
    model_max_length: modelMaxLength,
  };
}
