import { describe, expect, it } from 'vitest';
import { downloadNotes } from './hub-options.ts';

describe('a download', () => {
  const received = (totals: readonly (readonly [seconds: number, bytes: number])[]) => {
    const lines: string[] = [];
    let seconds = 0;
    const onProgress = downloadNotes((line) => lines.push(line), () => 1000 * seconds); // prettier-ignore
    for (const [at, receivedBytes] of totals) {
      seconds = at;
      onProgress({ repo: 'org/llama', file: 'model.safetensors', receivedBytes, totalBytes: 13e9 });
    }
    return lines;
  };

  it('is told of every five seconds, and at its end', () => {
    expect(
      received([
        [1, 1e9],
        [5, 4e9],
        [6, 5e9],
        [11, 12e9],
        [12, 13e9],
      ]),
    ).toEqual([
      // prettier-ignore
      'downloading org/llama: 4,000 of 13,000 MB',
      'downloading org/llama: 12,000 of 13,000 MB',
      'downloading org/llama: 13,000 of 13,000 MB',
    ]);
  });

  it('is not told of where all is there already', () => {
    expect(received([[0.1, 6e9], [0.2, 13e9]])).toEqual([]); // prettier-ignore
  });
});
