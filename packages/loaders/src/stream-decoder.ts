/** Turns token ids into text as they arrive. */
export interface StreamDecoder {
  /** Takes the next id; returns the text that is certain by now, '' while a character is incomplete. */
  push(id: number): string;
  /** Returns what was held back (replacement characters for bytes that never became one) and starts anew. */
  flush(): string;
}

/**
 * A streaming decoder over a whole-sequence `decode`. A piece's text depends on its neighbours (SentencePiece drops
 * the first space, byte pieces make characters together), so each step decodes a short window, of which the last
 * emitted ids are the context, and emits what the new ids added, unless it ends in U+FFFD, which marks an incomplete
 * character. The parts join to `decode` of the whole, except that a valid character followed by a stray byte, which
 * `decode` would replace too, stays.
 */
export function createStreamDecoder(decode: (ids: number[]) => string): StreamDecoder {
  let window: number[] = [];
  /** How many ids of the window have been emitted; the rest is pending. */
  let emitted = 0;
  const pendingText = (): string => decode(window).slice(decode(window.slice(0, emitted)).length);
  return {
    push(id) {
      window.push(id);
      const text = pendingText();
      if (text === '' || text.endsWith('\uFFFD')) return '';
      window = window.slice(emitted);
      emitted = window.length;
      return text;
    },
    flush() {
      const text = pendingText();
      window = [];
      emitted = 0;
      return text;
    },
  };
}
