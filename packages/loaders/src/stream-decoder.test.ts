import { describe, expect, it } from 'vitest';
import { createStreamDecoder } from './stream-decoder.ts';

describe('a stream decoder', () => {
  const bytes = new TextDecoder('utf-8', { ignoreBOM: true });
  const stream = () => createStreamDecoder((ids) => bytes.decode(Uint8Array.from(ids)));

  it('holds back an incomplete character and gives it whole', () => {
    const decoder = stream();
    expect([0x61, 0xf0, 0x9f, 0x8e, 0x89, 0x62].map((byte) => decoder.push(byte))).toEqual([
      'a',
      '',
      '',
      '',
      '🎉',
      'b',
    ]);
    expect(decoder.flush()).toBe('');
  });

  it('gives what never became a character when it ends or goes on', () => {
    const decoder = stream();
    expect([0xf0, 0x9f].map((byte) => decoder.push(byte))).toEqual(['', '']);
    expect(decoder.flush()).toBe('\uFFFD');
    expect([0xf0, 0x61].map((byte) => decoder.push(byte))).toEqual(['', '\uFFFDa']);
  });
});
