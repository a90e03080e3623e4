import { parameterCount, type LlamaConfig } from '@blockwise/model-zoo';
import { adamW, BlockOptimizer, sgd, type OptimizerFactory } from '@blockwise/optimizers';
import { initTensorFlow, liveTensors } from '@blockwise/tensorflow';
import { beforeAll, describe, expect, it } from 'vitest';
import { planMemory } from './plan-memory.ts';
import { tinyModel } from './tiny-model.test-support.ts';

const shape: Partial<LlamaConfig> = { hidden_size: 256, intermediate_size: 512, num_hidden_layers: 4, head_dim: 64 };
const { total: M, stages } = parameterCount(tinyModelConfig());
const layer = stages[1].parameters;

function tinyModelConfig(): LlamaConfig {
  return { ...shape, vocab_size: 32, num_attention_heads: 4, num_key_value_heads: 2, tie_word_embeddings: false } as LlamaConfig; // prettier-ignore
}

describe('planMemory', () => {
  beforeAll(() => initTensorFlow());

  const plan = (
    base: OptimizerFactory,
    blocks: boolean,
    settings: { length?: number; micro?: number; packing?: boolean } = {},
  ) =>
    planMemory({
      prepare: () => {
        const model = tinyModel(shape, 'bfloat16');
        const parameters = [...model.parameters.values()];
        return {
          model,
          optimizer: blocks ? new BlockOptimizer(base, parameters, { switchBlockEvery: 1 }) : base(parameters),
        };
      },
      // Clipping keeps the gradients of all that is trained.
      options: { gradientAccumulationSteps: settings.micro ?? 1, maxGradNorm: 1, keptBytes: 0 },
      ...{ batchSize: 2, length: settings.length ?? 64, packing: settings.packing, baseBytes: 1e9 },
    });

  it("takes 2M + 16M/D for BAdam (paper, section 2.2), less the block's 2 bytes, which its master replaces", async () => {
    const { parameters, gradients, optimizerStates } = await plan(adamW({ learningRate: 1 }), true);
    expect(parameters + gradients + optimizerStates).toBe(2 * M + 16 * layer - 2 * layer);
  });

  it("takes 18M for Adam (paper, section 2.2), less the weights' 2M, which the masters replace", async () => {
    const { parameters, gradients, optimizerStates } = await plan(adamW({ learningRate: 1 }), false);
    expect(parameters + gradients + optimizerStates).toBe(18 * M - 2 * M);
  });

  it('takes no states for plain SGD', async () => {
    expect((await plan(sgd({ learningRate: 1 }), false)).optimizerStates).toBe(0);
  });

  it('keeps the input of every stage from the lowest trained one up, for every batch of a step', async () => {
    const rows = 2 * 64;
    const inputs = 4 + 1; // of the layers and the head
    const ids = 4 * rows;
    const { activations } = await plan(adamW({ learningRate: 1 }), false);
    expect(activations).toBe(4 * rows * 256 * inputs + ids);
    expect((await plan(adamW({ learningRate: 1 }), false, { micro: 3 })).activations).toBe(3 * activations);
  });

  it('adds up, and needs more for longer sequences', async () => {
    const one = await plan(adamW({ learningRate: 1 }), true);
    const { parameters, gradients, optimizerStates, activations, workspace, peak, anonymous, fileBacked } = one;
    expect(parameters + optimizerStates + Math.max(gradients, activations) + workspace).toBe(anonymous + fileBacked);
    expect(peak).toBe(1e9 + anonymous + fileBacked);
    expect((await plan(adamW({ learningRate: 1 }), true, { length: 512 })).peak).toBeGreaterThan(peak);
  });

  it('counts a mask for each row of packed examples', async () => {
    const masks = 2 * 4 * 1024 * 1024;
    const peak = async (packing: boolean) => (await plan(adamW({ learningRate: 1 }), true, { length: 1024, packing })).peak; // prettier-ignore
    expect((await peak(true)) - (await peak(false))).toBeGreaterThan(masks / 4);
  });

  it("counts weight decay's temporary, of a weight's size", async () => {
    const peak = async (weightDecay: number) => (await plan(adamW({ learningRate: 1, weightDecay }), false)).peak;
    expect((await peak(0.1)) - (await peak(0))).toBeGreaterThanOrEqual(4 * 256 * 512);
  });

  it('leaves no tensor behind', async () => {
    const before = liveTensors();
    await plan(adamW({ learningRate: 1 }), true);
    expect(liveTensors()).toBe(before);
  });
});
