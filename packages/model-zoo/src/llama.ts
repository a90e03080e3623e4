import {
  attribute,
  bfloat16Arithmetic,
  dtypes,
  operation,
  Parameter,
  tf,
  type Arithmetic,
  type RawTensor,
} from '@blockwise/tensorflow';
import { llamaLayerShapes, llamaWeightShapes, type LlamaConfig } from './config.ts';
import { attention, bfloat16Linear, embedding, plainLinear, rmsNorm, rotary, swiglu } from './layers.ts';
import { rotaryTables } from './rotary-tables.ts';
import { weightAtRest } from './stage-weights.ts';
import type { BatchLayout, Context, LinearLayer, Stage, StagedModel, StageWeights } from './stages.ts';

/**
 * Llama (1, 2, 3, 3.1): rotary positions, grouped-query attention, RMSNorm before each half of a layer, SwiGLU, no biases by default.
 * Weight names and mathematics are those of transformers' modeling_llama.py.
 *
 * Letters: B sequences, T tokens, N = B * T rows, H hidden_size, A num_attention_heads, K num_key_value_heads, G = A / K, D head_dim.
 */
export interface Llama extends StagedModel {
  readonly config: LlamaConfig;
  /** Of the weights it was made of, which its files hold: Hugging Face name to shape. Adapters and codes of quantised weights are not among them. */
  readonly weightShapes: ReadonlyMap<string, readonly number[]>;
  /** How a decoder layer of it computes: llamaLayer() unless the family has its own. */
  readonly decoderLayer: DecoderLayer;
}

/** A decoder layer's function; with a cache, it also returns the cache as it becomes. */
export type DecoderLayer = (
  config: LlamaConfig,
  w: StageWeights,
  x: tf.Tensor,
  context: Context,
  linear?: LinearLayer,
  cache?: LayerCache,
) => { y: tf.Tensor2D; keys: tf.Tensor; values: tf.Tensor };

/** Earlier keys and values of one layer, and where the new ones go: what makes generation linear in the length. */
export interface LayerCache {
  /** float32 [1, K, S, D] */
  readonly keys: tf.Tensor;
  readonly values: tf.Tensor;
  /** float32 [S, T]: 1 where new token t takes place s. */
  readonly place: tf.Tensor;
}

/**
 * Attention of one layer up to its output projection: the joined heads, float32 [N, A * D], and the keys and values looked at.
 * @param x float32 [N, H], normed
 */
export function attendedHeads(
  config: LlamaConfig,
  w: StageWeights,
  x: tf.Tensor2D,
  [cos, sin, mask]: Context,
  linear: LinearLayer,
  cache?: LayerCache,
  arithmetic?: Arithmetic,
) {
  const { num_attention_heads: A, num_key_value_heads: K, head_dim: D } = config;
  const T = cos.shape[1]!;
  const B = x.shape[0] / T;
  const project = (name: string) => linear(`self_attn.${name}`, x, w);
  const heads = (y: tf.Tensor2D, count: number) => tf.reshape(y, [B, T, count, D]) as tf.Tensor4D;
  const headsFirst = (y: tf.Tensor4D) => tf.transpose(y, [0, 2, 1, 3]); // [B, T, heads, D] -> [B, heads, T, D]

  const queries = headsFirst(rotary(heads(project('q_proj'), A), cos, sin));
  const newKeys = headsFirst(rotary(heads(project('k_proj'), K), cos, sin));
  const newValues = headsFirst(heads(project('v_proj'), K));
  const [keys, values] = cache
    ? [merge(cache.keys, newKeys, cache), merge(cache.values, newValues, cache)]
    : [newKeys, newValues];

  const grouped = tf.reshape(queries, [B, K, (A / K) * T, D]); // the G heads of a group follow each other
  const attended = tf.reshape(attention(grouped, keys, values, mask, { causal: true, arithmetic }), [B, A, T, D]);
  const joined = tf.reshape(tf.transpose(attended, [0, 2, 1, 3]), [B * T, A * D]) as tf.Tensor2D;
  return { joined, keys, values };
}

/** The cache with the new entries in their places: float32 [1, K, S, D]. */
function merge(old: tf.Tensor, fresh: tf.Tensor, { place }: LayerCache): tf.Tensor {
  const keep = tf.reshape(tf.sub(1, tf.sum(place, 1)), [1, 1, place.shape[0], 1]);
  return tf.add(tf.mul(old, keep), tf.matMul(tf.expandDims(tf.expandDims(place, 0), 0), fresh));
}

/** One decoder layer; with a cache, also the cache as it becomes. */
export function llamaLayer(
  config: LlamaConfig,
  w: StageWeights,
  x: tf.Tensor,
  context: Context,
  linear: LinearLayer = plainLinear,
  cache?: LayerCache,
  arithmetic?: Arithmetic,
) {
  const eps = config.rms_norm_eps;
  const input = x as tf.Tensor2D;
  const inputNormed = rmsNorm(input, w['input_layernorm.weight'], eps);
  const { joined, keys, values } = attendedHeads(config, w, inputNormed, context, linear, cache, arithmetic);
  const middle = tf.add(input, linear('self_attn.o_proj', joined, w)) as tf.Tensor2D;
  const normed = rmsNorm(middle, w['post_attention_layernorm.weight'], eps);
  const gate = linear('mlp.gate_proj', normed, w);
  const up = linear('mlp.up_proj', normed, w);
  const down = linear('mlp.down_proj', swiglu(gate, up), w);
  return { y: tf.add(middle, down) as tf.Tensor2D, keys, values };
}

/** llamaLayer() with all products in bfloat16. */
const bfloat16Layer: DecoderLayer = (config, w, x, context, linear = bfloat16Linear, cache) =>
  llamaLayer(config, w, x, context, linear, cache, bfloat16Arithmetic);

/** Final norm and vocabulary projection, row by row: float32 [rows, H] -> logits, float32 [rows, vocab_size]. */
export function llamaHead(
  config: LlamaConfig,
  w: StageWeights,
  x: tf.Tensor,
  linear: LinearLayer = plainLinear,
): tf.Tensor2D {
  return linear('lm_head', rmsNorm(x as tf.Tensor2D, w['norm.weight'], config.rms_norm_eps), w);
}

/** What a model of Llama's family has of its own: its decoder layer. */
export interface LayerFamily {
  /** Names and shapes of a layer's weights, without the prefix that its place in the model gives. */
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  readonly decoderLayer: DecoderLayer;
  /** As Stage.linear and Stage.linearShapes. */
  readonly linear?: LinearLayer;
  readonly linearShapes?: Stage['linearShapes'];
  readonly operandBytes?: Stage['operandBytes'];
  /** As Stage.linear, of the head. */
  readonly headLinear?: LinearLayer;
}

/** The stages over given parameters. Names inside a stage are without the prefix that its place in the model gives. */
function llamaStages(
  config: LlamaConfig,
  parameters: ReadonlyMap<string, Parameter>,
  { shapes, decoderLayer, linear: ownLinear, linearShapes, operandBytes, headLinear }: LayerFamily,
): Stage[] {
  const parameter = (name: string) => parameters.get(name)!;
  const table = 'model.embed_tokens.weight';
  const layerNames = [...shapes.keys()];
  const layers = Array.from({ length: config.num_hidden_layers }, (_, i): Stage => {
    const name = `model.layers.${i}`;
    return {
      name,
      kind: 'layer',
      parameters: new Map(layerNames.map((local) => [local, parameter(`${name}.${local}`)])),
      linear: ownLinear,
      linearShapes,
      operandBytes,
      forward: (w, x, context, linear = ownLinear) => decoderLayer(config, w, x, context, linear).y,
    };
  });
  const embed: Stage = {
    name: 'model.embed_tokens',
    kind: 'embedding',
    parameters: new Map([['embed_tokens.weight', parameter(table)]]),
    linearShapes: new Map(),
    // LlamaModel makes its table with padding_idx = pad_token_id. (A tied head still moves that row.)
    forward: (w, ids) =>
      embedding(ids as tf.Tensor1D, weightAtRest(w, 'embed_tokens.weight'), config.pad_token_id ?? undefined),
  };
  const head: Stage = {
    name: 'lm_head',
    kind: 'head',
    parameters: new Map([
      ['norm.weight', parameter('model.norm.weight')],
      ['lm_head.weight', parameter(config.tie_word_embeddings ? table : 'lm_head.weight')],
    ]),
    linear: headLinear,
    operandBytes: headLinear && operandBytes,
    forward: (w, x, _context, linear = headLinear) => llamaHead(config, w, x, linear),
  };
  return [embed, ...layers, head];
}

/** A masked score: exp() of it is exactly 0, and sums of two of them stay finite. */
export const masked = -1e30;

/**
 * cos, sin: float32 [1 or B, T, 1, D]; mask: float32 [1 or B, 1, 1, T, T]. Right padding needs no mask of its own: under the causal mask no
 * real token sees the padding behind it.
 */
export function llamaContext(config: LlamaConfig, layout: BatchLayout): tf.Tensor[] {
  const { batchSize: B, length: T, positionIds, segmentIds } = layout;
  const rows = segmentIds ? B : 1;
  // Rows with one example each share one table, which counts on through the padding of any of them.
  const { cos, sin } = rotaryTables(config, segmentIds ? positionIds : Int32Array.from({ length: T }, (_, i) => i));
  const causal = new Float32Array(T * T);
  for (let query = 0; query < T; query++) causal.fill(masked, query * T + query + 1, (query + 1) * T);
  const table = (values: Float32Array) => tf.tensor4d(values, [rows, T, 1, config.head_dim]);
  const mask = tf.tensor5d(causal, [1, 1, 1, T, T]);
  return [table(cos), table(sin), segmentIds ? withinSegments(mask, segmentIds, B) : mask];
}

/** A mask for each of B rows, which lets no query see another segment; consumes the one of all. (In JavaScript each would be garbage of its size.) */
function withinSegments(mask: tf.Tensor5D, segmentIds: Int32Array, B: number): tf.Tensor {
  const T = mask.shape[4];
  const result = tf.tidy(() => {
    const ofQueries = tf.tensor5d(segmentIds, [B, 1, 1, T, 1], 'int32');
    const sees = tf.equal(ofQueries, tf.reshape(ofQueries, [B, 1, 1, 1, T]));
    // tf.where would first repeat the masks for all rows.
    return operation('SelectV2', [attribute.type('T', dtypes.float32.code)], [sees, mask, tf.scalar(masked)])[0];
  });
  mask.dispose();
  return result;
}

/** What a model's linear layers and attention multiply in: see bfloat16Linear. Everything else is float32. */
export type ComputeDtype = 'float32' | 'bfloat16';

/**
 * A Llama over given weights, taken over: every name of llamaWeightShapes(config) with its shape.
 * @throws RangeError naming the first weight that is missing or has another shape (openLlama() reports all of a folder's)
 */
export function createLlama(
  config: LlamaConfig,
  weights: ReadonlyMap<string, RawTensor>,
  { computeDtype = 'float32' }: { computeDtype?: ComputeDtype } = {},
): Llama {
  const inBfloat16 = {
    decoderLayer: bfloat16Layer,
    linear: bfloat16Linear,
    headLinear: bfloat16Linear,
    operandBytes: 2,
  };
  const computing = computeDtype === 'bfloat16' ? inBfloat16 : { decoderLayer: llamaLayer };
  return createOfFamily(config, weights, { shapes: llamaLayerShapes(config), ...computing });
}

/** createLlama() with another decoder layer between the same embedding and head. */
export function createOfFamily(
  config: LlamaConfig,
  weights: ReadonlyMap<string, RawTensor>,
  family: LayerFamily,
): Llama {
  const parameters = new Map<string, Parameter>();
  const weightShapes = llamaWeightShapes(config, family.shapes);
  for (const [name, shape] of weightShapes) {
    const weight = weights.get(name);
    if (!weight) throw new RangeError(`weight ${name} of shape [${shape}] is missing`);
    if (weight.shape.join() !== shape.join())
      throw new RangeError(`weight ${name} has shape [${weight.shape}]; config.json implies [${shape}]`);
    parameters.set(name, new Parameter(name, weight));
  }
  return {
    config,
    weightShapes,
    decoderLayer: family.decoderLayer,
    parameters,
    stages: llamaStages(config, parameters, family),
    context: (layout) => llamaContext(config, layout),
    dispose: () => parameters.forEach((parameter) => parameter.dispose()),
  };
}
