import { applyLora, quantizeModelNf4, type LoraConfig, type LoraModel } from '@blockwise/adapters';
import { createLlama, llamaWeightShapes, openLlama, type Llama } from '@blockwise/model-zoo';
import {
  adamW,
  adamW8bit,
  BlockOptimizer,
  sgd,
  type BlockOptimizerOptions,
  type Optimizer,
} from '@blockwise/optimizers';
import { initTensorFlow, liveTensors, RawTensor } from '@blockwise/tensorflow';
import { createMicroBatch, disposeMicroBatch, StageWalk } from '@blockwise/training';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { sharedData } from '../embedded.ts';

/** 40 steps of PEFT on stories260K, made by tools/golden/peft_trajectories.py; versions inside. */
interface Case {
  name: string;
  loraConfig: {
    r: number;
    lora_alpha: number;
    target_modules: string[] | string;
    use_rslora?: boolean;
    bias?: LoraConfig['bias'];
    modules_to_save?: string[];
    layers_to_transform?: number[];
  };
  optimizer: 'AdamW' | 'AdamW8bit' | 'SGD';
  optimizerOptions: { lr: number; weight_decay?: number; momentum?: number };
  blockOptions: {
    switch_mode: BlockOptimizerOptions['switchMode'];
    switch_block_every: number;
    include_embedding?: boolean;
    include_lm_head?: boolean;
  } | null;
  biases: boolean;
  nf4: boolean;
  trained: string[];
  activeLayers: string[][];
  losses: number[];
  weights: Record<string, [norm: number, change: number]>;
  noise: { losses: number };
}
const hasData = existsSync(sharedData);
if (!hasData) console.log(`skipping tests on real data: ${sharedData} is missing (set BLOCKWISE_DATA)`);

const packages = new URL('../../../packages/', import.meta.url);
const read = (path: string) => JSON.parse(readFileSync(new URL(path, packages), 'utf8'));
const { cases } = read('adapters/src/golden/peft-trajectories.json') as { cases: Case[] };
const { batches } = read('training/src/golden/badam-trajectories.json') as {
  batches: { inputIds: number[][]; labels: number[][] }[];
};

/** stories260K as it is, or with biases of 0 in attention and MLP. */
function openStories(biases: boolean): Llama {
  const { model } = openLlama(join(sharedData, 'models/stories260K'), { dtype: 'float32' });
  if (!biases) return model;
  const config = { ...model.config, attention_bias: true, mlp_bias: true };
  const weights = [...llamaWeightShapes(config)].map(([name, shape]) => {
    const bytes = model.parameters.get(name)?.bytes() ?? new Uint8Array(4 * shape[0]);
    return [name, RawTensor.fromBytes(bytes, shape, 'float32')] as const;
  });
  model.dispose();
  return createLlama(config, new Map(weights));
}

function adapt({ loraConfig, biases, nf4 }: Case): LoraModel<Llama> {
  const base = openStories(biases);
  const model = applyLora(nf4 ? quantizeModelNf4(base) : base, {
    r: loraConfig.r,
    loraAlpha: loraConfig.lora_alpha,
    targetModules: loraConfig.target_modules,
    useRslora: loraConfig.use_rslora,
    bias: loraConfig.bias,
    modulesToSave: loraConfig.modules_to_save,
    layersToTransform: loraConfig.layers_to_transform,
  });
  // As in the golden: float32(0.05 sin(0.7 i + 0.3 n)) for element i of a factor whose name has n characters.
  for (const parameter of model.trainable.filter(({ name }) => name.includes('.lora_'))) {
    const values = Float32Array.from({ length: parameter.elements }, (_, i) => 0.05 * Math.sin(0.7 * i + 0.3 * parameter.name.length)); // prettier-ignore
    parameter.replace(RawTensor.fromBytes(new Uint8Array(values.buffer), parameter.shape, 'float32'));
  }
  return model;
}

function createOptimizer(model: LoraModel, { optimizer, optimizerOptions, blockOptions }: Case): Optimizer {
  const { lr: learningRate, weight_decay: weightDecay = 0.01, momentum } = optimizerOptions;
  const bases = {
    AdamW: () => adamW({ learningRate, weightDecay }),
    AdamW8bit: () => adamW8bit({ learningRate, weightDecay }),
    SGD: () => sgd({ learningRate, momentum }),
  };
  const base = bases[optimizer]();
  if (!blockOptions) return base(model.trainable);
  // Official: blocks without adapters (the embedding's, the head's) are passed over.
  const { switch_mode: switchMode, switch_block_every: switchBlockEvery } = blockOptions;
  return new BlockOptimizer(base, model.trainable, { switchMode, switchBlockEvery, compat: 'official' });
}

async function run(record: Case) {
  const model = adapt(record);
  const start = new Map(model.trainable.map((parameter) => [parameter.name, valuesOf(parameter.bytes())]));
  const frozen = [...model.parameters].filter(([name]) => !start.has(name)).map(([name, p]) => [name, p.bytes()] as const); // prettier-ignore
  const optimizer = createOptimizer(model, record);
  const walk = new StageWalk(model);
  const losses: number[] = [];
  const activeLayers: string[][] = [];
  for (const { inputIds, labels } of batches) {
    const [batchSize, length] = [inputIds.length, inputIds[0].length];
    const micro = createMicroBatch(model, {
      ...{ batchSize, length },
      positionIds: Int32Array.from({ length: batchSize * length }, (_, i) => i % length),
      inputIds: Int32Array.from(inputIds.flat()),
      labels: Int32Array.from(labels.flat()),
    });
    if (record.blockOptions) activeLayers.push(layersOf(optimizer.trainable));
    optimizer.beginStep();
    losses.push(
      await walk.gradients([micro], optimizer.trainable, ([name, gradient]) => {
        optimizer.update(name, gradient);
        gradient.dispose();
      }),
    );
    optimizer.endStep();
    disposeMicroBatch(micro);
  }
  const changed = frozen.filter(([name, bytes]) => Buffer.compare(model.parameters.get(name)!.bytes(), bytes) !== 0);
  const changes = new Map(model.trainable.map((p) => [p.name, distance(valuesOf(p.bytes()), start.get(p.name)!)]));
  [optimizer, walk, model].forEach((part) => part.dispose());
  return { losses, activeLayers, changed, changes };
}

const layersOf = (names: Iterable<string>) => [...new Set([...names].map((name) => /layers\.(\d+)/.exec(name)![1]))];
const valuesOf = (bytes: Uint8Array) => new Float32Array(bytes.slice().buffer);
const distance = (a: Float32Array, b: Float32Array) => Math.sqrt(a.reduce((sum, x, i) => sum + (x - b[i]) ** 2, 0));
const largestRelative = (found: number[], expected: number[]) =>
  Math.max(...expected.map((x, i) => Math.abs(found[i] - x) / Math.abs(x)));

beforeAll(() => initTensorFlow());

describe.skipIf(!hasData)('LoRA on stories260K and Alpaca-GPT4', () => {
  it.each(cases)("$name: 40 losses equal PEFT's, and the base keeps its bits", async (record) => {
    const before = liveTensors();
    const { losses, activeLayers, changed, changes } = await run(record);
    expect(liveTensors()).toBe(before);
    expect(changed).toEqual([]);
    expect([...changes.keys()].sort()).toEqual([...record.trained].sort());
    if (record.blockOptions) expect(activeLayers).toEqual(record.activeLayers);
    const error = largestRelative(losses, record.losses);
    console.log(`${record.name}: largest relative error ${error.toExponential(2)}, noise ${record.noise.losses}`);
    expect(error).toBeLessThan(Math.max(1e-4, 10 * record.noise.losses));
    // What the losses hardly feel: every trained weight went as far as PEFT's.
    for (const [name, [, change]] of Object.entries(record.weights))
      expect(Math.abs(changes.get(name)! - change), name).toBeLessThan(0.01 * change + 1e-6);
  });
});
