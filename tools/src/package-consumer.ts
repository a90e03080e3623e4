/**
 * What a user of the packages writes: check-packages.ts compiles this file in an empty project against the packed declarations, and runs it
 * with plain node. Arguments: a Llama folder, an Alpaca file, a folder to write to.
 */
import { strict as assert } from 'node:assert';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { applyLora, quantizeModelNf4 } from '@blockwise/adapters';
import { UserError } from '@blockwise/errors';
import { createBatches, loadTokenizer, tokeniseDataset, type Tokenizer } from '@blockwise/loaders';
import { generate, llamaDecoder, openLlama, saveLlama, type Llama } from '@blockwise/model-zoo';
import { adamW, BlockOptimizer } from '@blockwise/optimizers';
import { dynamicMap } from '@blockwise/quantization';
import { csvTable, lineChart } from '@blockwise/reporting';
import { compile, describeEngine, initTensorFlow, liveTensors, tf } from '@blockwise/tensorflow';
import { createMicroBatch, disposeMicroBatch, StageWalk } from '@blockwise/training';

const [modelFolder, dataFile, outputFolder] = process.argv.slice(2);

await initTensorFlow({ threads: 2 });
console.log(`TensorFlow ${describeEngine().tensorflow}, backend ${tf.getBackend()}`);
checkGradients();

const tokenizer = loadTokenizer(modelFolder);
const { model, json } = openLlama(modelFolder);
const losses = await fineTune(model, tokenizer);
console.log(`losses ${losses.map((loss) => loss.toFixed(3)).join(' ')}`);
assert(losses.at(-1)! < losses[0] - 0.1, 'the loss does not fall');

await saveLlama(outputFolder, { model, json }, modelFolder);
model.dispose();
const reopened = openLlama(outputFolder).model;
const { text } = await generate(llamaDecoder(reopened), tokenizer.encode('Once upon a time'), {
  maxNewTokens: 12,
  temperature: 0,
  decode: (ids) => tokenizer.decode(ids, { skipSpecialTokens: true }),
});
assert(text.length > 0);
console.log(`reopened, it writes: ${JSON.stringify(text)}`);
reopened.dispose();

const adapted = applyLora(quantizeModelNf4(openLlama(outputFolder).model), { r: 2, targetModules: ['q_proj'] });
assert.equal(adapted.trainable.length, 2 * adapted.config.num_hidden_layers);
adapted.dispose();
assert.equal(dynamicMap(true).length, 256);
assert.throws(() => openLlama(join(outputFolder, 'absent')), UserError);

const points = losses.map((y, x) => ({ x: x + 1, y }));
const series = [{ label: 'loss', points }];
const chart = lineChart({ title: 'Loss', xTitle: 'step', yTitle: 'loss (nats)', series });
assert.deepEqual([...chart.subarray(1, 4)], [...Buffer.from('PNG')]);
writeFileSync(join(outputFolder, 'loss.png'), chart);
const csv = csvTable(
  ['step', 'loss'],
  points.map(({ x, y }) => [x, y]),
);
console.log(`chart of ${chart.byteLength} bytes, table of ${csv.length} characters`);

/** d/dx of sum(x^3) is 3 x^2: by TensorFlow.js's gradients, by a compiled function, and by chained operations. */
function checkGradients(): void {
  const cube = (x: tf.Tensor) => tf.sum(tf.mul(tf.square(x), x)) as tf.Scalar;
  const gradient = tf.grad(cube);
  const compiled = compile('gradient', (x) => [gradient(x as tf.Tensor)]);
  tf.tidy(() => {
    const x = tf.tensor1d([1, -2, 3]);
    for (const result of [gradient(x), compiled(x)[0]]) assert.deepEqual([...result.dataSync()], [3, 12, 27]);
    const chained = x as unknown as { square(): { sum(): tf.Tensor } };
    assert.equal(chained.square().sum().dataSync()[0], 14);
  });
  compiled.dispose();
  assert.equal(liveTensors(), 0);
}

/** BAdam on the records of the data file: each layer gets four steps. */
async function fineTune(model: Llama, tokenizer: Tokenizer): Promise<number[]> {
  const { examples } = await tokeniseDataset({ files: [dataFile], tokenizer, template: 'alpaca', cutoffLen: 256 });
  assert.equal(examples.length, JSON.parse(readFileSync(dataFile, 'utf8')).length);
  const padId = tokenizer.pad?.id ?? 0;
  const batches = createBatches(examples, { batchSize: examples.length, padId });
  const options = { switchBlockEvery: 4, switchMode: 'descending' } as const;
  const optimizer = new BlockOptimizer(adamW(), [...model.parameters.values()], options);
  const walk = new StageWalk(model);
  const losses: number[] = [];
  for (let step = 0; step < 12; step++) {
    const batch = createMicroBatch(model, batches.next());
    optimizer.learningRate = 1e-3;
    optimizer.beginStep();
    const loss = await walk.gradients([batch], optimizer.trainable, ([name, gradient]) => {
      optimizer.update(name, gradient);
      gradient.dispose();
    });
    optimizer.endStep();
    disposeMicroBatch(batch);
    losses.push(loss);
  }
  optimizer.dispose();
  walk.dispose();
  return losses;
}
