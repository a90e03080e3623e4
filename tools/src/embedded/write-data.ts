/**
 * Writes what fine-tuning and pretraining of the embedded model start from: datasets/embedded/instructions.json and the
 * tokenizer in datasets/embedded/model. `npm run embedded:data -w tools`; the same bytes each time.
 */
import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { corpus } from './corpus.ts';
import { instructionRecords } from './instructions.ts';
import { tokenizerConfig, tokenizerJson, trainByteLevel } from './tokenizer.ts';

export const embeddedFolder = fileURLToPath(new URL('../../../datasets/embedded', import.meta.url));

/** Everything that decides the embedded data. */
export const embeddedData = {
  instructionSeed: 20_240_401,
  instructionCount: 2_000,
  tokenizerSeed: 1,
  /** Documents of the corpus that the tokenizer is trained on. */
  tokenizerDocuments: 8_000,
  vocabSize: 1_024,
  modelMaxLength: 512,
} as const;

/** The files by their path inside datasets/embedded. */
export function embeddedDataFiles(): Map<string, string> {
  const { instructionSeed, instructionCount, tokenizerSeed, tokenizerDocuments, vocabSize, modelMaxLength } =
    embeddedData;
  const tokenizer = trainByteLevel(corpus(tokenizerSeed, tokenizerDocuments), vocabSize);
  const json = (value: unknown) => `${JSON.stringify(value, undefined, 1)}\n`;
  return new Map([
    ['instructions.json', json(instructionRecords(instructionSeed, instructionCount))],
    ['model/tokenizer.json', json(tokenizerJson(tokenizer))],
    ['model/tokenizer_config.json', json(tokenizerConfig(modelMaxLength))],
  ]);
}

/** Writes a file whole or not at all. */
export function writeWhole(path: string, content: string | Uint8Array): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(`${path}.part`, content);
  renameSync(`${path}.part`, path);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const [path, content] of embeddedDataFiles()) {
    writeWhole(join(embeddedFolder, path), content);
    console.log(`${join(embeddedFolder, path)}: ${Buffer.byteLength(content)} bytes`);
  }
}
