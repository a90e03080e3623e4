import { applyLora, quantizeModelNf4, type LoraModel } from '@blockwise/adapters';
import { freshLlama, llama_defaults } from '@blockwise/model-zoo';
import { initTensorFlow, liveTensors, RawTensor, type tf } from '@blockwise/tensorflow';
import { createMicroBatch, disposeMicroBatch, StageWalk, type MicroBatch } from '@blockwise/training';
import { beforeAll, expect, test } from 'vitest';

beforeAll(() => initTensorFlow());

const settings = {
  ...{ vocab_size: 32, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 3, initializer_range: 0.2 },
  ...{ num_attention_heads: 4, num_key_value_heads: 2, head_dim: 16, max_position_embeddings: 64 },
};

function adapted(nf4: boolean): LoraModel {
  const base = freshLlama({ ...llama_defaults, ...settings }, { seed: 1 });
  const options = { r: 4, targetModules: 'all-linear', loraDropout: 0.3, initLoraWeights: false };
  return applyLora(nf4 ? quantizeModelNf4(base) : base, options, 2);
}

function batchOf(model: LoraModel, dropoutSeed: number): MicroBatch {
  const [batchSize, length] = [2, 8];
  const inputIds = Int32Array.from({ length: batchSize * length }, (_, i) => (5 * i + 3) % 32);
  const positionIds = Int32Array.from(inputIds, (_, i) => i % length);
  return createMicroBatch(model, { batchSize, length, inputIds, labels: inputIds, positionIds, dropoutSeed });
}

type Gradients = Map<string, Float32Array>;

async function gradientsOf(model: LoraModel, batches: MicroBatch[], keptBytes: number): Promise<Gradients> {
  const walk = new StageWalk(model, { keptBytes });
  const gradients: Gradients = new Map();
  const names = new Set(model.trainable.map(({ name }) => name));
  await walk.gradients(batches, names, ([name, gradient]) => {
    gradients.set(name, (gradient as tf.Tensor).dataSync<'float32'>().slice());
    gradient.dispose();
  });
  walk.dispose();
  return gradients;
}

test.each([false, true])(
  'with dropout, the backward run sees the masks of the forward run, its products kept or not; base in 4 bits: %s',
  async (nf4) => {
    const before = liveTensors();
    const model = adapted(nf4);
    const batches = [batchOf(model, 11), batchOf(model, 12)];
    const gradients = await gradientsOf(model, batches, Infinity);
    expect(await gradientsOf(model, batches, 0)).toEqual(gradients);
    expect(gradients.size).toBe(3 * 7 * 2);

    // The loss's slope along the gradient, by central differences under the same masks.
    const walk = new StageWalk(model);
    const norm = Math.sqrt([...gradients.values()].flatMap((g) => [...g]).reduce((sum, g) => sum + g * g, 0));
    const start = new Map(model.trainable.map((p) => [p.name, new Float32Array(p.bytes().slice().buffer)]));
    const lossAt = async (step: number) => {
      for (const parameter of model.trainable) {
        const gradient = gradients.get(parameter.name)!;
        const values = start.get(parameter.name)!.map((x, i) => x + (step * gradient[i]) / norm);
        parameter.replace(RawTensor.fromBytes(new Uint8Array(values.buffer), parameter.shape, 'float32'));
      }
      const sums = [await walk.lossSum(batches[0]), await walk.lossSum(batches[1])];
      return (sums[0].sum + sums[1].sum) / (sums[0].labels + sums[1].labels);
    };
    const h = 0.01;
    const slope = ((await lossAt(h)) - (await lossAt(-h))) / (2 * h);
    expect(Math.abs(slope - norm) / norm).toBeLessThan(0.01);
    batches.forEach(disposeMicroBatch);
    walk.dispose();
    model.dispose();
    expect(liveTensors()).toBe(before);
  },
);
