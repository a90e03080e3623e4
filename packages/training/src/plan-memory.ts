import { parameterCount, type LlamaConfig } from '@blockwise/model-zoo';
import { defaultKeptBytes } from './stage-walk.ts';

/** What decides a run's memory. */
export interface MemoryPlanInput {
  config: LlamaConfig;
  /** Bytes of a weight at rest: 2 or 4. */
  storageBytes: number;
  /** Elements trained at a time: the largest block's, or all. */
  trainedElements: number;
  /** Bytes of optimizer states per trained element: 8 for Adam, 4 for momentum, 0 for plain SGD. */
  stateBytes: number;
  /** Stages from the lowest trained one up keep their inputs. */
  keptStages: number;
  /** Sequences in a batch, tokens in a sequence (the longest bucket), batches in a step. */
  batchSize: number;
  length: number;
  gradientAccumulationSteps: number;
  /** As StageWalk's option: bytes for products of linear layers. Default: as there. */
  keptBytes?: number;
  /** Whether gradients are clipped, so that all of a step's are alive together; else the largest tensor's alone. */
  clipped: boolean;
  /** Resident before the model is loaded: Node, TensorFlow, data. */
  baseBytes: number;
}

/** Bytes by what they hold; `peak` counts the base in. */
export interface MemoryPlan {
  parameters: number;
  gradients: number;
  optimizerStates: number;
  activations: number;
  workspace: number;
  peak: number;
}

const float = 4;

/**
 * Predicts a run's memory before it starts. Parameters at rest take their storage dtype, trained ones a float32 master in its place (BAdam,
 * arXiv 2404.02827, section 2.2: 2M + 16M/D bytes in all with gradients and Adam's states); activations are what the forward run keeps; the
 * workspace is what the largest compiled call holds beside its inputs and results.
 */
export function planMemory(input: MemoryPlanInput): MemoryPlan {
  const { config, trainedElements, stateBytes } = input;
  const { total } = parameterCount(config);
  const rows = input.batchSize * input.length;
  const parameters = (total - trainedElements) * input.storageBytes + trainedElements * float;
  const largestMatrix = Math.max(config.vocab_size, config.intermediate_size) * config.hidden_size;
  const gradients = float * (input.clipped ? trainedElements : Math.min(trainedElements, largestMatrix));
  const optimizerStates = trainedElements * stateBytes;
  const stageInputs = float * rows * config.hidden_size * input.keptStages * input.gradientAccumulationSteps;
  const activations = stageInputs + keptProducts(input, parameters);
  const workspace = Math.max(layerWorkspace(input), headWorkspace(input));
  const peak = input.baseBytes + parameters + gradients + optimizerStates + activations + workspace;
  return { parameters, gradients, optimizerStates, activations, workspace, peak };
}

/** Products of linear layers, of the topmost layers that fit (StageWalk). */
function keptProducts(
  { config, keptStages, keptBytes, batchSize, length, gradientAccumulationSteps }: MemoryPlanInput,
  weightBytes: number,
) {
  const { hidden_size: H, intermediate_size: I, num_attention_heads: A, num_key_value_heads: K, head_dim: D } = config;
  const perLayer = float * ((A + 2 * K) * D + H + 2 * I) * batchSize * length * gradientAccumulationSteps;
  const layers = Math.min(keptStages - 1, Math.floor((keptBytes ?? defaultKeptBytes(weightBytes)) / perLayer));
  return layers * perLayer;
}

/** A layer run again with its gradients: what its nodes hold at the fullest moment, and 16-bit weights as float32. */
function layerWorkspace({ config, storageBytes, batchSize, length }: MemoryPlanInput): number {
  const { hidden_size: H, intermediate_size: I, num_attention_heads: A, num_key_value_heads: K, head_dim: D } = config;
  const rows = batchSize * length;
  const perRow = 6 * H + 3 * (A + 2 * K) * D + 6 * I;
  const scores = 3 * batchSize * A * length * length;
  const weights = storageBytes < float ? parameterCount(config).stages[1].parameters : 0;
  return float * (rows * perRow + scores + weights);
}

/** A piece of the head: logits and their gradient, and the weight as float32. */
function headWorkspace({ config, storageBytes, batchSize, length }: MemoryPlanInput): number {
  const { vocab_size: V, hidden_size: H } = config;
  const rows = Math.min(batchSize * length, Math.max(64, Math.floor((64 * 2 ** 20) / (float * V * 64)) * 64), 1024);
  return float * (3 * rows * V + (storageBytes < float ? V * H : 0));
}
