/**
 * BitNet b1.58 (arXiv 2402.17764) from scratch on the embedded text, then packed to 2 bits a weight.
 * `npx nx run experiments:bitnet`: offline, under a minute.
 */
import {
  bitnet_defaults,
  freshBitNet,
  openBitNet,
  packBitNet,
  saveLlama,
  type LlamaConfig,
} from '@blockwise/model-zoo';
import { adamW } from '@blockwise/optimizers';
import type { BatchSource } from '@blockwise/loaders';
import { describeEngine, initTensorFlow, totalBytes } from '@blockwise/tensorflow';
import { evaluateLoss, predictingRows, train } from '@blockwise/training';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { note, round, writeBenchmark } from './bench/write-benchmark.ts';
import { tiny } from './bench/tiny.ts';
import { embedded, repository } from './embedded.ts';
import { readText } from './quantization/text-examples.ts';

const seed = 1;
const [steps, length, learningRate] = [tiny ? 3 : 200, 128, 4e-3];
const folder = join(repository, 'results/quantization', tiny ? 'tiny' : '', 'bitnet');

/** Mean nats of a batch source's labels by how often each token is one in `counted`, added to one each. */
function unigramLoss(counted: BatchSource, measured: BatchSource, vocabulary: number): number {
  const counts = new Float64Array(vocabulary).fill(1);
  for (const batch of counted.epochBatches()) predictingRows(batch).targets.forEach((id) => counts[id]++);
  const total = counts.reduce((sum, count) => sum + count, 0);
  const targets = [...measured.epochBatches()].flatMap((batch) => [...predictingRows(batch).targets]);
  return targets.reduce((sum, id) => sum - Math.log(counts[id] / total), 0) / targets.length;
}

await initTensorFlow();
const data = await readText(embedded.model, embedded.dataset, { count: 3000, length, seed });
const config: LlamaConfig = {
  ...bitnet_defaults,
  ...{ vocab_size: data.vocabularySize, hidden_size: 96, intermediate_size: 256, num_hidden_layers: 3, head_dim: 24 },
  ...{ num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: 512, bos_token_id: 1, eos_token_id: 2 },
  rope_parameters: { rope_type: 'default', rope_theta: 10000 },
};
const validation = () => data.batches(data.validation, 8);
const unigram = unigramLoss(data.batches(data.train, 8), validation(), data.vocabularySize);

const opened = freshBitNet(config, { seed });
const optimizer = adamW({ learningRate, betas: [0.9, 0.95], weightDecay: 0 })([...opened.model.parameters.values()]);
const { steps: records } = await train({
  ...{ model: opened.model, optimizer, batches: data.batches(data.train, 8) },
  options: {
    ...{ totalSteps: steps, gradientAccumulationSteps: 1, learningRate, lrSchedulerType: 'cosine', warmupSteps: 10 },
    ...{ maxGradNorm: 1, evalSteps: 0, saveSteps: 0 },
  },
  onStep: ({ step, loss }) => step % 20 === 0 && note(`step ${step}/${steps}: loss ${loss.toFixed(3)}`),
});
optimizer.dispose();
const fileBytes = (name: string) => statSync(join(folder, name, 'model.safetensors')).size;

const trainedLoss = await evaluateLoss(opened.model, validation());
const trainedBytes = totalBytes(opened.model.parameters.values());
await saveLlama(join(folder, 'trained'), opened, embedded.model);
const packed = packBitNet(opened);
await saveLlama(join(folder, 'packed'), packed, embedded.model);
packed.model.dispose();
const { model } = openBitNet(join(folder, 'packed'));
const packedLoss = await evaluateLoss(model, validation());
const packedBytes = totalBytes(model.parameters.values());
model.dispose();

writeBenchmark({
  name: 'bitnet',
  folder: 'quantization',
  byMachine: false,
  title: 'BitNet b1.58 trained from scratch on the embedded text, and packed to 2 bits',
  seed,
  figures: {
    ...{ unigramLoss: round(unigram), trainedLoss: round(trainedLoss), packedLoss: round(packedLoss) },
    packedPerplexityOverTrained: round(Math.exp(packedLoss - trainedLoss), 7),
  },
  rows: [
    { model: 'token frequencies', loss: round(unigram), perplexity: round(Math.exp(unigram)), bytes: null, file: null },
    ...[
      { model: 'trained, float32 weights that become ternary when used', loss: trainedLoss, bytes: trainedBytes, file: fileBytes('trained') }, // prettier-ignore
      { model: 'packed, 2 bits a linear weight', loss: packedLoss, bytes: packedBytes, file: fileBytes('packed') },
    ].map((row) => ({ ...row, loss: round(row.loss, 6), perplexity: round(Math.exp(row.loss), 6) })),
  ].map(({ model, loss, perplexity, bytes, file }) => ({
    ...{ model, 'loss, nats': loss, perplexity, 'bytes in memory': bytes, 'bytes of model.safetensors': file },
  })),
  notes: [
    `Hidden ${config.hidden_size}, ${config.num_hidden_layers} layers, vocabulary ${config.vocab_size}, of which embedding and head stay float32; AdamW, ${steps} steps of 8 x ${length} tokens, cosine from ${learningRate}.`,
    `Held-out text. Both folders are left in results/quantization/bitnet; transformers loads them.`,
  ],
  measurements: { losses: records.map(({ loss }) => loss), seconds: records.map(({ seconds }) => seconds) },
  versions: { tensorflow: describeEngine().tensorflow },
});
