/**
 * How much of the machine's float32 GEMM rate (2048^3, measured in turns in the same process) each kind of stage reaches.
 * `npx nx run experiments:bench-layers`
 *
 * All through StageWalk, as training calls it. A layer's time is the difference between a model of some layers and one of none, which
 * cancels the embedding and the head; the head's is the backward half of a model without layers whose last norm alone is trained.
 */
import { createRandom } from '@blockwise/loaders';
import { freshLlama, llama_110m, llama_1_1b, type Llama, type LlamaConfig } from '@blockwise/model-zoo';
import { describeEngine, initTensorFlow, matMul2d, tf } from '@blockwise/tensorflow';
import { StageWalk, type MicroBatch } from '@blockwise/training';
import { randomMicroBatch } from './random-micro-batch.ts';
import { spread, type Spread } from './spread.ts';
import { tiny, tinyConfig } from './tiny.ts';
import { note, range, round, writeBenchmark } from './write-benchmark.ts';

const seed = 1;
const rounds = tiny ? 3 : 9;
const gemmSize = tiny ? 256 : 2048;

interface Shape {
  name: 'h768' | 'h2048';
  config: LlamaConfig;
  batchSize: number;
  length: number;
  /** Layers whose times are taken together. */
  layers: number;
}

const shapes: Shape[] = [
  { name: 'h768', config: tiny ? tinyConfig : llama_110m, batchSize: 4, length: tiny ? 32 : 256, layers: tiny ? 2 : 6 },
  {
    name: 'h2048',
    config: tiny ? tinyConfig : llama_1_1b,
    batchSize: 2,
    length: tiny ? 32 : 256,
    layers: tiny ? 2 : 3,
  },
];

/** Multiplications and additions, 2mnk each product, of one layer's forward: in projections, and in attention's two products. */
function layerFlops(config: LlamaConfig, batchSize: number, length: number) {
  const { hidden_size: H, intermediate_size: I, num_attention_heads: A, num_key_value_heads: K, head_dim: D } = config;
  const linear = 2 * batchSize * length * H * (2 * A * D + 2 * K * D + 3 * I);
  const attention = 4 * batchSize * A * length * length * D;
  // A layer that is run again for its gradients leaves out its last product (down_proj), which only makes its output.
  const again = linear - 2 * batchSize * length * H * I + attention;
  return { linear, attention, again };
}

/** Seconds of both halves of one pass with some weights trained. */
async function pass(walk: StageWalk, batch: MicroBatch, trained: ReadonlySet<string>) {
  const { forward, backward } = walk.timing;
  await walk.gradients([batch], trained, ([, gradient]) => void gradient.dispose());
  return { forward: walk.timing.forward - forward, backward: walk.timing.backward - backward };
}

/** GEMM rate of this moment, in operations a second. */
function gemmRate(): () => number {
  const a = tf.randomNormal<tf.Rank.R2>([gemmSize, gemmSize]);
  const b = tf.randomNormal<tf.Rank.R2>([gemmSize, gemmSize]);
  return () => {
    const repeats = 4;
    const begin = performance.now();
    for (let i = 0; i < repeats; i++) matMul2d(a, b).dispose();
    return (repeats * 2 * gemmSize ** 3 * 1000) / (performance.now() - begin);
  };
}

/** A way to use a stage: its operations, and its seconds now. */
interface Case {
  shape: Shape['name'];
  stage: 'forward' | 'inputGradient' | 'allGradients' | 'head';
  flops: number;
  seconds: () => Promise<number>;
}

function fresh(config: LlamaConfig): { model: Llama; walk: StageWalk } {
  const model = freshLlama(config, { seed, dtype: 'float32' });
  // Nothing kept: the FLOPs counted include running the layer again.
  return { model, walk: new StageWalk(model, { keptBytes: 0 }) };
}

function casesOf({ name, config, batchSize, length, layers }: Shape): Case[] {
  const random = createRandom(seed, batchSize);
  // A small vocabulary keeps what cancels small.
  const small = { ...config, vocab_size: 512, tie_word_embeddings: false };
  const tall = fresh({ ...small, num_hidden_layers: layers });
  const flat = fresh({ ...small, num_hidden_layers: 0 });
  const headOnly = fresh({ ...config, tie_word_embeddings: false, num_hidden_layers: 0 });
  const batch = randomMicroBatch(tall.model, small, batchSize, length, random);
  const headBatch = randomMicroBatch(headOnly.model, config, batchSize, length, random);

  const all = ({ model }: { model: Llama }) => new Set(model.parameters.keys());
  const embedding = () => new Set(['model.embed_tokens.weight']);
  const difference = async (half: 'forward' | 'backward', trained: (of: { model: Llama }) => Set<string>) =>
    (await pass(tall.walk, batch, trained(tall)))[half] - (await pass(flat.walk, batch, trained(flat)))[half];
  const { linear, attention, again } = layerFlops(config, batchSize, length);
  const predicting = batchSize * (length - 1);
  return [
    { shape: name, stage: 'forward', flops: layers * (linear + attention), seconds: () => difference('forward', all) },
    // Run again, then one product for each (of attention's: two) by its input.
    {
      ...{ shape: name, stage: 'inputGradient', flops: layers * (again + linear + 2 * attention) },
      seconds: () => difference('backward', embedding),
    },
    {
      ...{ shape: name, stage: 'allGradients', flops: layers * (again + 2 * linear + 2 * attention) },
      seconds: () => difference('backward', all),
    },
    // Logits, and their gradient by the hidden rows.
    {
      ...{ shape: name, stage: 'head', flops: 4 * predicting * config.vocab_size * config.hidden_size },
      seconds: async () => (await pass(headOnly.walk, headBatch, new Set(['model.norm.weight']))).backward,
    },
  ];
}

await initTensorFlow();
const rate = gemmRate();
const rates: number[] = [];
const results: (Omit<Case, 'seconds'> & { share: Spread; gigaflops: Spread; seconds: Spread })[] = [];
for (const shape of shapes) {
  const cases = casesOf(shape).map((one) => ({ one, seconds: [] as number[], shares: [] as number[] }));
  rate();
  for (const { one } of cases) for (let i = 0; i < 2; i++) await one.seconds();
  for (let i = 0; i < rounds; i++) {
    for (const { one, seconds, shares } of cases) {
      const before = rate();
      const taken = await one.seconds();
      const after = rate();
      rates.push(before, after);
      seconds.push(taken);
      shares.push(one.flops / taken / ((before + after) / 2));
    }
    note(
      `${shape.name} round ${i + 1}/${rounds}: ${cases.map(({ one, shares }) => `${one.stage} ${shares.at(-1)!.toFixed(3)}`).join(', ')}`,
    );
  }
  for (const { one, seconds, shares } of cases) {
    const { shape, stage, flops } = one;
    const gigaflops = spread(seconds.map((taken) => flops / taken / 1e9));
    results.push({ shape, stage, flops, share: spread(shares), gigaflops, seconds: spread(seconds) });
  }
}

const share = (shape: string, stage: string) =>
  round(results.find((result) => result.shape === shape && result.stage === stage)!.share.median);
const layer = (shape: string) => ({
  forward: share(shape, 'forward'),
  inputGradient: share(shape, 'inputGradient'),
  allGradients: share(shape, 'allGradients'),
});
const gemm = spread(rates.map((rate) => rate / 1e9));
writeBenchmark({
  name: 'bench-layers',
  title: "Share of the machine's GEMM rate that each kind of stage reaches",
  seed,
  figures: {
    h768: layer('h768'),
    h2048: layer('h2048'),
    head: Math.min(share('h768', 'head'), share('h2048', 'head')),
  },
  rows: results.map(({ shape, stage, share, gigaflops, seconds }) => ({
    shape,
    stage,
    'share of GEMM, median': round(share.median, 3),
    'min - max': range(share, 3),
    'GFLOP/s': round(gigaflops.median, 3),
    'seconds, median': round(seconds.median, 3),
  })),
  notes: [
    `GEMM: float32 ${gemmSize}^3, ${round(gemm.median, 3)} GFLOP/s (${range(gemm, 3)}), measured before and after each case; ${rounds} rounds.`,
    `${shapes.map(({ name, batchSize, length, layers }) => `${name}: ${batchSize} x ${length} tokens, ${layers} layers together`).join('; ')}; float32 weights, resident.`,
    'Operations are those of the products alone (2mnk); a gradient counts what of the forward is run again (all but down_proj). The JSON figure head is the lower of the two.',
  ],
  measurements: { results, gemmRates: rates },
  versions: { tensorflow: describeEngine().tensorflow },
});
