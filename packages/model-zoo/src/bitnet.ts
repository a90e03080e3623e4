import { fakeQuantizeAbsmax, fakeQuantizeTernary, unpackTernary } from '@blockwise/quantization';
import { tf, type RawTensor } from '@blockwise/tensorflow';
import { bitnetLayerShapes, packedLayerShapes, type BitNetStorage } from './bitnet-config.ts';
import type { LlamaConfig } from './config.ts';
import { linear, rmsNorm, swiglu } from './layers.ts';
import { codesAtRest } from './stage-weights.ts';
import { attendedHeads, createOfFamily, type DecoderLayer, type Llama } from './llama.ts';
import type { LinearLayer } from './stages.ts';

/**
 * BitNet b1.58 (arXiv 2402.17764; weight names and mathematics of transformers' modeling_bitnet.py and integrations/bitnet.py): a Llama
 * whose linear layers are BitLinear, with a norm before each half's last one, and relu^2 in place of silu. Embedding, norms and head are of
 * full precision.
 *
 * Letters: N rows, H hidden_size, I intermediate_size.
 */
export type BitNet = Llama;

/**
 * BitLinear: y = round8(x) ternary(W)^T + b. Each token of x is rounded to 8 bits by its largest magnitude, W to -1, 0, 1 times mean|W|; both
 * roundings hand gradients on unchanged. A packed weight stands beside `<name>.weight_scale`, float32 [1], which divides.
 */
export const bitLinear: LinearLayer = (name, x, w) => {
  const divisor = w[`${name}.weight_scale`];
  const bias = w[`${name}.bias`];
  const rounded = fakeQuantizeAbsmax(x);
  if (!divisor) return linear(rounded, fakeQuantizeTernary(w[`${name}.weight`]), bias);
  const codes = unpackTernary(codesAtRest(w, `${name}.weight`, x));
  const y = tf.div(linear(rounded, codes), divisor) as tf.Tensor2D;
  return bias ? tf.add(y, bias) : y;
};

/** relu(gate)^2 * up: float32 [N, I]. */
const squaredRelu = (gate: tf.Tensor2D, up: tf.Tensor2D) => tf.mul(tf.square(tf.relu(gate)), up) as tf.Tensor2D;

/** One decoder layer; with a cache, also the cache as it becomes. */
export const bitnetLayer: DecoderLayer = (config, w, x, context, linear = bitLinear, cache) => {
  const norm = (x: tf.Tensor2D, name: string) => rmsNorm(x, w[`${name}.weight`], config.rms_norm_eps);
  const input = x as tf.Tensor2D;

  const { joined, keys, values } = attendedHeads(config, w, norm(input, 'input_layernorm'), context, linear, cache);
  const attended = linear('self_attn.o_proj', norm(joined, 'self_attn.attn_sub_norm'), w);
  const middle = tf.add(input, attended) as tf.Tensor2D;

  const normed = norm(middle, 'post_attention_layernorm');
  const gated = config.hidden_act === 'relu2' ? squaredRelu : swiglu;
  const inner = gated(linear('mlp.gate_proj', normed, w), linear('mlp.up_proj', normed, w));
  const down = linear('mlp.down_proj', norm(inner, 'mlp.ffn_sub_norm'), w);
  return { y: tf.add(middle, down) as tf.Tensor2D, keys, values };
};

/**
 * A BitNet over given weights, taken over: every name of bitnetWeightShapes(config, storage) with its shape. It trains where they are
 * `online`; packed ones, uint8, can only be used.
 * @throws RangeError naming the first weight that is missing or has another shape
 */
export function createBitNet(
  config: LlamaConfig,
  weights: ReadonlyMap<string, RawTensor>,
  storage: Exclude<BitNetStorage, 'autobitlinear'> = 'online',
): BitNet {
  const shapes = storage === 'online' ? bitnetLayerShapes(config) : packedLayerShapes(config);
  const matrices = [...bitnetLayerShapes(config)].filter(([, shape]) => shape.length === 2);
  const linearShapes = new Map(
    matrices.map(([name, [outputs, inputs]]) => [name.replace(/\.weight$/, ''), [outputs, inputs] as const] as const),
  );
  return createOfFamily(config, weights, {
    ...{ shapes, decoderLayer: bitnetLayer, linear: bitLinear, linearShapes },
  });
}
