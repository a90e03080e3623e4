import {
  createBitNet,
  parseBitNetConfig,
  bitnetWeightShapes,
  type BitNet,
  type JsonObject,
} from '@blockwise/model-zoo';
import { adamW } from '@blockwise/optimizers';
import { initTensorFlow, liveTensors, RawTensor } from '@blockwise/tensorflow';
import { readFileSync } from 'node:fs';
import { beforeAll, expect, it } from 'vitest';
import { createMicroBatch, disposeMicroBatch } from './micro-batch.ts';
import { StageWalk } from './stage-walk.ts';

/** 40 steps of AdamW on a BitNet in transformers, made by tools/golden/bitnet.py; versions inside. */
interface Golden {
  config: JsonObject;
  learningRate: number;
  losses: number[];
  /** Up to each step, of equal re-runs. */
  noise: number[];
}
const read = (name: string): unknown => JSON.parse(readFileSync(new URL(`golden/${name}`, import.meta.url), 'utf8'));
const golden = read('bitnet-trajectory.json') as Golden;
const { batches } = read('badam-trajectories.json') as { batches: { inputIds: number[][]; labels: number[][] }[] };

/** Numbers in [-1, 1) as in the script: the finaliser of murmur3 over salt * 2^20 + index, the upper 24 bits. */
function hashed(count: number, salt: number): Float32Array {
  return Float32Array.from({ length: count }, (_, index) => {
    let x = (salt << 20) + index;
    x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
    x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
    x ^= x >>> 16;
    return (x >>> 8) / 2 ** 23 - 1;
  });
}

function initialModel(): BitNet {
  const { config } = parseBitNetConfig(golden.config);
  const shapes = bitnetWeightShapes(config);
  const weights = new Map<string, RawTensor>();
  for (const [salt, name] of [...shapes.keys()].sort().entries()) {
    const shape = shapes.get(name)!;
    const noise = hashed(shape.reduce((product, size) => product * size, 1), salt); // prettier-ignore
    const values = noise.map((x) => (name.includes('norm') ? 1 : 0.125 * x));
    weights.set(name, RawTensor.fromBytes(new Uint8Array(values.buffer), shape, 'float32'));
  }
  return createBitNet(config, weights);
}

beforeAll(() => initTensorFlow());

it("trains a BitNet for 40 steps with transformers' losses", async () => {
  const before = liveTensors();
  const model = initialModel();
  const optimizer = adamW({ learningRate: golden.learningRate, weightDecay: 0 })([...model.parameters.values()]);
  const walk = new StageWalk(model);
  const losses: number[] = [];
  for (const { inputIds, labels } of batches.slice(0, golden.losses.length)) {
    const [batchSize, length] = [inputIds.length, inputIds[0].length];
    const micro = createMicroBatch(model, {
      ...{ batchSize, length, positionIds: Int32Array.from({ length: batchSize * length }, (_, i) => i % length) },
      ...{ inputIds: Int32Array.from(inputIds.flat()), labels: Int32Array.from(labels.flat()) },
    });
    optimizer.beginStep();
    const loss = await walk.gradients([micro], optimizer.trainable, ([name, gradient]) => {
      optimizer.update(name, gradient);
      gradient.dispose();
    });
    optimizer.endStep();
    losses.push(loss);
    disposeMicroBatch(micro);
  }
  optimizer.dispose();
  walk.dispose();
  model.dispose();
  expect(liveTensors()).toBe(before);
  const errors = golden.losses.map((x, i) => Math.abs(losses[i] - x) / x);
  console.log(`BitNet: largest relative error ${Math.max(...errors).toExponential(2)}, noise ${golden.noise.at(-1)}`);
  expect(errors.length).toBe(40);
  // Strict until a code falls to the other side, which happens in equal re-runs of transformers too.
  errors.forEach((error, i) => expect([i, error < Math.max(1e-4, 10 * golden.noise[i]) || error]).toEqual([i, true]));
});
