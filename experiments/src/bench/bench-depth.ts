/**
 * What the backward pass costs by where the trained block lies (BAdam, arXiv 2404.02827, tables 4 and 14): all modules, the input layer
 * alone, the output layer alone. `npx nx run experiments:bench-depth`
 */
import { createRandom } from '@blockwise/loaders';
import { freshLlama, llama_defaults, type LlamaConfig } from '@blockwise/model-zoo';
import { describeEngine, initTensorFlow } from '@blockwise/tensorflow';
import { StageWalk } from '@blockwise/training';
import { randomMicroBatch } from './random-micro-batch.ts';
import { spread } from './spread.ts';
import { tiny } from './tiny.ts';
import { note, range, round, writeBenchmark } from './write-benchmark.ts';

const seed = 1;
const rounds = tiny ? 3 : 7;
/** Depth and proportions of Llama-2-7B, a quarter as wide; the vocabulary too, or the head would weigh more than it does there. */
const config: LlamaConfig = {
  ...llama_defaults,
  vocab_size: 8000,
  hidden_size: tiny ? 64 : 1024,
  intermediate_size: tiny ? 172 : 2752,
  num_hidden_layers: tiny ? 8 : 32,
  num_attention_heads: 8,
  num_key_value_heads: 8,
  head_dim: tiny ? 8 : 128,
};
const [batchSize, length] = [2, tiny ? 32 : 256];

await initTensorFlow();
const model = freshLlama(config, { seed, dtype: 'float32' });
// Nothing is run again: with everything repeated, the input case would cost a forward more of a smaller whole.
const walk = new StageWalk(model, { keptBytes: Infinity });
const batch = randomMicroBatch(model, config, batchSize, length, createRandom(seed));
const layer = (index: number) =>
  [...model.parameters.keys()].filter((name) => name.startsWith(`model.layers.${index}.`));
const cases = [
  { name: 'all modules', trained: new Set(model.parameters.keys()), seconds: [] as number[] },
  { name: 'input layer only', trained: new Set(layer(0)), seconds: [] as number[] },
  { name: 'output layer only', trained: new Set(layer(config.num_hidden_layers - 1)), seconds: [] as number[] },
];
for (let i = -1; i < rounds; i++) {
  for (const { name, trained, seconds } of cases) {
    const before = walk.timing.backward;
    await walk.gradients([batch], trained, ([, gradient]) => void gradient.dispose());
    const taken = walk.timing.backward - before;
    if (i >= 0) seconds.push(taken); // the first round warms up
    note(`round ${i + 1}/${rounds} ${name}: ${taken.toFixed(3)} s`);
  }
}

const [all, input, output] = cases.map(({ seconds }) => spread(seconds));
const paper = ['5.180 (1)', '3.903 (0.753)', '0.053 (0.010)'];
writeBenchmark({
  name: 'bench-depth',
  title: 'Seconds of a backward pass by which block is trained',
  seed,
  figures: { outputOverAll: round(output.median / all.median), inputOverAll: round(input.median / all.median) },
  rows: [all, input, output].map((spread, i) => ({
    trained: cases[i].name,
    'seconds, median': round(spread.median),
    'min - max': range(spread),
    'share of all': round(spread.median / all.median, 3),
    'paper, Llama 2-7B on a GPU: seconds (share)': paper[i],
  })),
  notes: [
    `${config.num_hidden_layers} layers, hidden ${config.hidden_size}, intermediate ${config.intermediate_size}, vocabulary ${config.vocab_size}, ${batchSize} x ${length} tokens, float32; ${rounds} rounds in turns.`,
    'Backward includes the head with its logits; products of linear layers are kept (gradient_checkpointing false). The last column is BAdam, table 14.',
  ],
  measurements: Object.fromEntries(cases.map(({ name, seconds }) => [name, seconds])),
  versions: { tensorflow: describeEngine().tensorflow },
});
