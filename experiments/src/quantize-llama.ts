/**
 * Perplexity of a Llama before and after post-training quantisation to 8 and 4 bits, and what quantisation-aware training wins back.
 * `npx nx run experiments:quantize-llama`: the embedded model on the embedded answers, and stories260K on Alpaca-GPT4 where ../shared/data is.
 */
import { calibrate, quantizationAware, quantizeModel, type ModelQuantization } from '@blockwise/adapters';
import { openLlama, type Llama } from '@blockwise/model-zoo';
import { adamW } from '@blockwise/optimizers';
import { describeEngine, initTensorFlow, totalBytes } from '@blockwise/tensorflow';
import { evaluateLoss, train, type TrainOptions } from '@blockwise/training';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { note, round, writeBenchmark } from './bench/write-benchmark.ts';
import { tiny } from './bench/tiny.ts';
import { embedded, sharedData } from './embedded.ts';
import { readText, type TextData } from './quantization/text-examples.ts';

const seed = 1;
const steps = tiny ? 2 : 60;
const learningRate = 3e-4;
const calibrationBatches = 8;

/** `groupSize` divides the inputs of every linear layer. */
const subjects = [
  { name: 'embedded', folder: embedded.model, dataset: embedded.dataset, groupSize: 32 },
  {
    name: 'stories260K',
    folder: join(sharedData, 'models/stories260K'),
    dataset: join(sharedData, 'alpaca_gpt4/alpaca_gpt4_data_en_999.json'),
    groupSize: 4,
  },
].filter(({ folder }) => existsSync(folder));

interface Row {
  readonly model: string;
  readonly weights: string;
  readonly inputs: string;
  readonly bytes: number;
  readonly perplexity: number;
}

/** The schemes of the table, the most careful first. */
function schemes(groupSize: number): ModelQuantization[] {
  return [
    { bits: 8, symmetric: true, granularity: 'channel' },
    { bits: 8, symmetric: false, granularity: 'tensor' },
    { bits: 4, symmetric: false, granularity: 'group', groupSize },
    { bits: 4, symmetric: true, granularity: 'group', groupSize },
    { bits: 4, symmetric: true, granularity: 'channel' },
    { bits: 4, symmetric: true, granularity: 'tensor' },
  ];
}

const describe = ({ bits, symmetric, granularity, groupSize }: ModelQuantization) =>
  `int${bits}, ${symmetric ? 'symmetric' : 'asymmetric'}, per ${granularity}${groupSize ? ` of ${groupSize}` : ''}`;

async function measure({ name, folder, dataset, groupSize }: (typeof subjects)[number]): Promise<Row[]> {
  const data = await readText(folder, dataset, { count: tiny ? 200 : 1500, length: 128, seed, part: 'answers' });
  const open = () => openLlama(folder, { dtype: 'float32' }).model;
  const rows: Row[] = [];
  const add = async (model: Llama, weights: string, inputs = 'float32') => {
    const loss = await evaluateLoss(model, data.batches(data.validation, 8));
    const bytes = totalBytes(model.parameters.values());
    rows.push({ model: name, weights, inputs, bytes, perplexity: Math.exp(loss) });
    note(`${name}, ${weights}, inputs ${inputs}: perplexity ${Math.exp(loss).toFixed(3)}`);
    return model;
  };
  const addQuantized = async (model: Llama, scheme: ModelQuantization, inputs?: string, after = '') =>
    (await add(quantizeModel(model, scheme), `${describe(scheme)}${after}`, inputs)).dispose();

  const original = open();
  const calibration = [...data.batches(data.train, 8).epochBatches()].slice(0, calibrationBatches);
  const ranges = await calibrate(original, calibration);
  (await add(original, 'float32')).dispose();
  for (const scheme of schemes(groupSize)) await addQuantized(open(), scheme);
  const careful: ModelQuantization = { bits: 8, symmetric: true, granularity: 'channel' };
  const activations = { bits: 8, symmetric: false } as const;
  await addQuantized(open(), { ...careful, activations: { ...activations, ranges } }, 'int8, calibrated');
  await addQuantized(open(), { ...careful, activations }, 'int8, per token');

  const coarse: ModelQuantization = { bits: 4, symmetric: true, granularity: 'tensor' };
  const plain = await add(await trained(open(), data), `float32, after ${steps} steps`);
  await addQuantized(plain, coarse, undefined, `, after the same ${steps} steps in float32`);
  const aware = await trained(open(), data, coarse);
  await addQuantized(aware, coarse, undefined, `, after ${steps} steps of quantisation-aware training`);
  return rows;
}

/** The model after some steps, computing with fake quantisation where there is a scheme; at rest. */
async function trained(model: Llama, data: TextData, scheme?: ModelQuantization): Promise<Llama> {
  const optimizer = adamW({ learningRate, weightDecay: 0 })([...model.parameters.values()]);
  const options: TrainOptions = {
    ...{ totalSteps: steps, gradientAccumulationSteps: 1, learningRate, lrSchedulerType: 'cosine', warmupSteps: 5 },
    ...{ maxGradNorm: 1, evalSteps: 0, saveSteps: 0 },
  };
  const subject = scheme ? quantizationAware(model, scheme) : model;
  await train({ model: subject, optimizer, batches: data.batches(data.train, 8), options });
  optimizer.dispose();
  model.parameters.forEach((parameter) => parameter.deactivate());
  return model;
}

await initTensorFlow();
const rows: Row[] = [];
for (const subject of subjects) rows.push(...(await measure(subject)));
const fullOf = (model: string) => rows.find((row) => row.model === model)!.perplexity;
const perplexityOf = (pattern: RegExp) => rows.find(({ weights }) => pattern.test(weights))!.perplexity;
writeBenchmark({
  name: 'quantize-llama',
  folder: 'quantization',
  byMachine: false,
  title: 'Perplexity of Llamas before and after quantisation',
  seed,
  figures: {
    float32: round(perplexityOf(/^float32/)),
    int8: round(perplexityOf(/^int8/)),
    int4: round(perplexityOf(/^int4.*tensor$/)),
    float32Trained: round(perplexityOf(/^float32, after/)),
    int4Trained: round(perplexityOf(/same/)),
    int4TrainedQuantisationAware: round(perplexityOf(/aware/)),
  },
  rows: rows.map(({ model, weights, inputs, bytes, perplexity }) => ({
    ...{ model, 'weights of linear layers': weights, 'their inputs': inputs, 'MB of all weights': round(bytes / 1e6) },
    perplexity: round(perplexity, 5),
    'against float32': `${round(perplexity / fullOf(model), 4)}`,
  })),
  notes: [
    'Min-max scales; embedding, head and norms stay float32. Every token of held-out answers is predicted (a tenth of the records).',
    `Inputs: calibrated on ${calibrationBatches} batches of 8 x 128 tokens of the other records.`,
    `Training: AdamW, ${steps} steps of 8 x 128 tokens, cosine from ${learningRate}; then quantised as the row says.`,
    ...(subjects.length < 2 ? [`stories260K was not measured: ${sharedData} is missing (set BLOCKWISE_DATA).`] : []),
  ],
  measurements: rows,
  versions: { tensorflow: describeEngine().tensorflow },
});
