import { UserError } from '@blockwise/errors';
import { compile, tf, type CompiledFunction } from '@blockwise/tensorflow';
import type { CachedDecoder } from './generation.ts';
import { llamaHead, masked, type Llama } from './llama.ts';
import { rotaryTables } from './rotary-tables.ts';
import { callStage, stageInputs } from './stage-call.ts';
import type { Stage } from './stages.ts';

/** Keys and values of every layer, with room for `room` tokens of which `length` are taken. */
export interface LlamaCache {
  layers: { keys: tf.Tensor; values: tf.Tensor }[];
  length: number;
  room: number;
}

/** The cache's room is a multiple of this and doubles when full; prompts are fed in pieces of this length, the last one filled up. */
const piece = 64;

/**
 * A Llama that generates with a key-value cache: each new token costs one pass over the weights. Few shapes are compiled: pieces of 1 or 64
 * tokens, times the doublings of the cache. Borrows the model; make one decoder and keep it, since each compiles anew.
 * step() throws a UserError naming the token ids that the vocabulary does not have.
 */
export function llamaDecoder(model: Llama): CachedDecoder<LlamaCache> {
  const { config, stages } = model;
  const layers = stages.slice(1, -1);
  const { num_key_value_heads: K, head_dim: D, hidden_size: H } = config;
  const { embed, decode, project } = decoderFunctions(model);

  /** Feeds `ids`, at most 64 and filled up to 1 or 64; returns the hidden state of the last real one: float32 [1, H]. */
  const feed = async (ids: Int32Array, cache: LlamaCache): Promise<tf.Tensor> => {
    const T = ids.length === 1 ? 1 : piece;
    grow(cache, cache.length + ids.length, [1, K, D]);
    const padded = new Int32Array(T);
    padded.set(ids);
    const inputs = stepTensors(model, cache, ids.length, T);
    const idTensor = tf.tensor1d(padded, 'int32');
    let [x] = await embed(idTensor);
    for (const [i, stage] of layers.entries()) {
      const { keys, values } = cache.layers[i];
      const [y, newKeys, newValues] = await decode(stage, [x, ...inputs.context, keys, values, inputs.place]);
      tf.dispose([x, keys, values]);
      cache.layers[i] = { keys: newKeys, values: newValues };
      x = y;
    }
    cache.length += ids.length;
    const last = tf.slice(x, [ids.length - 1, 0], [1, H]);
    tf.dispose([x, idTensor, inputs.place, ...inputs.context]);
    return last;
  };

  return {
    start: () => ({
      layers: layers.map(() => ({ keys: tf.zeros([1, K, piece, D]), values: tf.zeros([1, K, piece, D]) })),
      length: 0,
      room: piece,
    }),
    async step(ids, cache) {
      checkIds(ids, config.vocab_size);
      let hidden: tf.Tensor | undefined;
      for (let from = 0; from < ids.length; from += piece) {
        hidden?.dispose();
        hidden = await feed(ids.slice(from, from + piece), cache);
      }
      const [logits] = await project(hidden!);
      const values = (await logits.data()) as Float32Array;
      tf.dispose([hidden!, logits]);
      return values;
    },
    dispose: ({ layers }) => layers.forEach(({ keys, values }) => tf.dispose([keys, values])),
  };
}

/** The model's stages over one piece of a text, compiled on first use: one function for each kind of layer, as adapters may be on some only. */
function decoderFunctions({ config, stages, decoderLayer }: Llama) {
  const [bottom, head] = [stages[0], stages[stages.length - 1]];
  const embed = compile('decode_embedding', (...inputs) => {
    const { weights, rest } = stageInputs(bottom, inputs);
    return [bottom.forward(weights, rest[0], [])];
  });
  const layerOf = (stage: Stage) =>
    compile('decode_layer', (...inputs) => {
      const { weights, rest } = stageInputs(stage, inputs);
      const [x, cos, sin, mask, keys, values, place] = rest;
      const result = decoderLayer(config, weights, x, [cos, sin, mask], stage.linear, { keys, values, place });
      return [result.y, result.keys, result.values];
    });
  const layers = new Map<string, CompiledFunction>();
  const project = compile('decode_head', (...inputs) => {
    const { weights, rest } = stageInputs(head, inputs);
    return [llamaHead(config, weights, rest[0], head.linear)];
  });
  return {
    embed: (ids: tf.Tensor) => callStage(embed, bottom, [ids]),
    decode: (stage: Stage, inputs: readonly tf.Tensor[]) => {
      const layer = layers.get(stage.kind) ?? layerOf(stage);
      layers.set(stage.kind, layer);
      return callStage(layer, stage, inputs);
    },
    project: (hidden: tf.Tensor) => callStage(project, head, [hidden]),
  };
}

/** On a GPU a look-up outside the table gives zeros without a word. */
function checkIds(ids: Int32Array, vocabulary: number): void {
  const outside = new Set(ids.filter((id) => id < 0 || id >= vocabulary));
  if (outside.size === 0) return;
  throw new UserError(
    `token ids ${[...outside].join(', ')} are outside the vocabulary of ${vocabulary}: the tokenizer is another model's`,
  );
}

/** Rotary tables, mask and places of T new tokens of which `used` are real: float32 [1, T, 1, D] twice, [1, 1, 1, T, S], [S, T]. */
function stepTensors({ config }: Llama, { length, room }: LlamaCache, used: number, T: number) {
  const positions = Int32Array.from({ length: T }, (_, i) => length + i);
  const { cos, sin } = rotaryTables(config, positions);
  const mask = new Float32Array(T * room);
  const place = new Float32Array(room * T);
  for (let t = 0; t < T; t++) {
    mask.fill(masked, t * room + Math.min(length + t + 1, room), (t + 1) * room);
    if (t < used) place[(length + t) * T + t] = 1;
  }
  const shape: [number, number, number, number] = [1, T, 1, config.head_dim];
  const context = [tf.tensor4d(cos, shape), tf.tensor4d(sin, shape), tf.tensor5d(mask, [1, 1, 1, T, room])];
  return { context, place: tf.tensor2d(place, [room, T]) };
}

/** Doubles the cache until it has room for `needed` tokens. */
function grow(cache: LlamaCache, needed: number, [B, K, D]: [number, number, number]): void {
  while (cache.room < needed) {
    const more = tf.zeros([B, K, cache.room, D]);
    const widen = (old: tf.Tensor) => {
      const wide = tf.concat([old, more], 2);
      old.dispose();
      return wide;
    };
    cache.layers = cache.layers.map(({ keys, values }) => ({ keys: widen(keys), values: widen(values) }));
    more.dispose();
    cache.room *= 2;
  }
}
