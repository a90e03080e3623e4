import { UserError } from '@blockwise/errors';
import { packTernary, ternaryCodes } from '@blockwise/quantization';
import { cast, RawTensor, tf, toRaw, type Parameter } from '@blockwise/tensorflow';
import { createBitNet, type BitNet } from './bitnet.ts';
import {
  bitnetConfigJson,
  bitnetQuantization,
  bitnetWeightShapes,
  readBitNetConfig,
  type BitNetConfigFile,
  type BitNetStorage,
} from './bitnet-config.ts';
import { llamaTiedWeights, type LlamaConfig, type WeightDtype } from './config.ts';
import { freshWeights, saveHollow, type FreshOptions } from './fresh-weights.ts';
import { tiedAsStored, weightInDtype, type OpenedLlama } from './llama-files.ts';
import { matchWeights, openWeights } from './weights.ts';

/** A BitNet with what its files said, or will say: saveLlama() writes it as transformers' BitNetForCausalLM reads it. */
export interface OpenedBitNet extends OpenedLlama {
  readonly model: BitNet;
}

/**
 * Opens a BitNet (model_type bitnet) in Hugging Face layout, trainable or packed. Weights stored in `dtype`, and packed ones, stay in the
 * mapped file until used.
 * @param dtype how unpacked weights are kept at rest; default: as they are stored
 * @param streamed as openLlama()'s
 * @throws UserError naming the file and all that is wrong with it
 */
export function openBitNet(
  folder: string,
  { dtype, streamed }: { dtype?: WeightDtype; streamed?: boolean } = {},
): OpenedBitNet {
  const read = readBitNetConfig(folder);
  const files = openWeights(folder);
  try {
    const { config, json, warnings, storage } = tiedAsStored(read, files);
    const packed = packedWeights(config, storage);
    const floats = ['float32', 'bfloat16', 'float16'] as const;
    const sources = matchWeights(bitnetWeightShapes(config, storage), files, {
      tied: llamaTiedWeights(config),
      dtypesOf: (name) => (packed.has(name) ? ['uint8'] : floats),
    });
    const weights = new Map<string, RawTensor>();
    for (const [name, source] of sources) {
      const stored = files.tensor(source, { streamed });
      const scale = storage === 'autobitlinear' && name.endsWith('.weight_scale');
      weights.set(name, packed.has(name) ? stored : scale ? reciprocal(stored) : weightInDtype(stored, dtype));
    }
    const kept = storage === 'online' ? storage : 'bitlinear';
    return { model: createBitNet(config, weights, kept), json: inStorage(json, kept), warnings };
  } finally {
    files.close();
  }
}

/** Names of the weights that BitLinear has: all matrices of the layers. */
function linearWeights(config: LlamaConfig): Set<string> {
  const matrices = [...bitnetWeightShapes(config)].filter(([name, { length }]) => length === 2 && /\.layers\./.test(name)); // prettier-ignore
  return new Set(matrices.map(([name]) => name));
}

/** Those of them that files of this storage hold as codes, uint8. */
const packedWeights = (config: LlamaConfig, storage: BitNetStorage) =>
  storage === 'online' ? new Set<string>() : linearWeights(config);

const inStorage = (json: OpenedBitNet['json'], storage: BitNetStorage) => ({
  ...json,
  quantization_config: bitnetQuantization(storage),
});

/** AutoBitLinear's scale as BitLinear's, float32; consumes it. */
function reciprocal(stored: RawTensor): RawTensor {
  const inverse = raw(() => toRaw(tf.div(1, cast(stored)), 'float32'));
  stored.dispose();
  return inverse;
}

/** tf.tidy() for what it does not know: raw tensors come out. */
function raw<Result>(body: () => Result): Result {
  let result: Result;
  tf.tidy(() => void (result = body()));
  return result!;
}

/** A BitNet with random weights as transformers initialises one: see freshLlama(). */
export function freshBitNet(config: LlamaConfig, options: FreshOptions): OpenedBitNet {
  const weights = freshWeights(config, options, bitnetWeightShapes(config));
  return { model: createBitNet(config, weights), json: bitnetConfigJson(config), warnings: [] };
}

/**
 * saveHollowLlama() of a BitNet.
 * @param dtype of its unpacked weights
 */
export function saveHollowBitNet(
  folder: string,
  { config, storage }: Pick<BitNetConfigFile, 'config' | 'storage'>,
  dtype: WeightDtype,
): Promise<void> {
  const packed = packedWeights(config, storage);
  const tensors = [...bitnetWeightShapes(config, storage)].map(
    ([name, shape]) => [name, { dtype: packed.has(name) ? 'uint8' : dtype, shape }] as const,
  );
  return saveHollow(folder, tensors, bitnetConfigJson(config, storage), dtype);
}

/**
 * A BitNet that begins with a Llama's weights, its activation and sub-norms of 1, to be trained from there: rounding to ternary loses most of
 * what the Llama knew. Takes the Llama over.
 * @throws UserError where the Llama has what a BitNet has not
 */
export function bitNetFromLlama({ model, json, warnings }: OpenedLlama): OpenedBitNet {
  const { config } = model;
  const problems = [
    ...(config.mlp_bias ? ['mlp_bias: a BitNet has none'] : []),
    ...(config.head_dim * config.num_attention_heads === config.hidden_size
      ? []
      : [`head_dim: found ${config.head_dim}, expected hidden_size / num_attention_heads`]),
  ];
  if (problems.length > 0) throw new UserError(`this Llama cannot become a BitNet: ${problems.join('; ')}`);
  const weights = new Map<string, RawTensor>();
  const dtype = model.parameters.get('model.norm.weight')!.storageDtype as WeightDtype;
  for (const [name, shape] of bitnetWeightShapes(config)) {
    const parameter = model.parameters.get(name);
    weights.set(name, parameter ? parameter.take() : ones(shape, dtype));
  }
  // Every field in full: what a Llama's file leaves out means something else in a BitNet's.
  return { model: createBitNet(config, weights), json: { ...json, ...bitnetConfigJson(config) }, warnings };
}

function ones(shape: readonly number[], dtype: WeightDtype): RawTensor {
  return raw(() => toRaw(tf.fill([...shape], 1), dtype));
}

/**
 * The same model with its linear weights packed to 2 bits each, for use alone. Takes the given one over, trained or at rest: what is trained
 * is rounded to its storage dtype first, so that the codes are those of the model that saveLlama() writes, and optimizers over it are at an end.
 * @throws UserError where a weight's rows are not a multiple of 4
 */
export function packBitNet({ model, json, warnings }: OpenedBitNet): OpenedBitNet {
  const linear = linearWeights(model.config);
  const uneven = [...linear].filter((name) => model.parameters.get(name)!.shape[0] % 4 !== 0);
  if (uneven.length > 0)
    throw new UserError(`four rows of a weight make one packed row: ${uneven[0]} has ${model.parameters.get(uneven[0])!.shape[0]}`); // prettier-ignore
  const weights = new Map<string, RawTensor>();
  for (const parameter of model.parameters.values()) {
    const { name } = parameter;
    parameter.deactivate();
    if (linear.has(name)) for (const [key, value] of pack(parameter)) weights.set(key, value);
    else weights.set(name, parameter.take());
    parameter.dispose();
  }
  return { model: createBitNet(model.config, weights, 'bitlinear'), json: inStorage(json, 'bitlinear'), warnings };
}

/** `<name>`, uint8 [outputs / 4, inputs], and `<name>_scale`, float32 [1]: 1 / mean|W|. */
function pack(parameter: Parameter): [string, RawTensor][] {
  return raw(() => {
    const values = parameter.acquire();
    const { codes, factor } = ternaryCodes(cast(values));
    parameter.release(values);
    return [
      [parameter.name, toRaw(packTernary(codes as tf.Tensor2D), 'uint8')],
      [`${parameter.name}_scale`, toRaw(tf.reshape(factor, [1]), 'float32')],
    ];
  });
}
