import { initTensorFlow, liveTensors, tf, type Parameter } from '@blockwise/tensorflow';
import { beforeAll, describe, expect, test } from 'vitest';
import { adam, BlockOptimizerRatio, type BlockOptimizerRatioOptions } from './index.ts';
import { smallNames, smallParameters, smallShape, takeSteps } from './small-parameters.test-support.ts';

beforeAll(() => initTensorFlow());

/** Its 12 entries' bits. */
function entriesOf(parameter: Parameter): number[] {
  const bytes = parameter.bytes();
  const { buffer } = bytes.slice();
  return [...(parameter.storageDtype === 'float32' ? new Uint32Array(buffer) : new Uint16Array(buffer))];
}

/** The places in which a parameter changed in each of some windows of one step. */
function changedPlaces(options: BlockOptimizerRatioOptions, windows: number, names = ['a.weight']): number[][][] {
  const parameters = smallParameters('float32', names);
  const optimizer = new BlockOptimizerRatio(parameters, { switchEvery: 1, preserveThreshold: 0, ...options });
  const places = Array.from({ length: windows }, (_, window) => {
    const before = parameters.map(entriesOf);
    takeSteps(optimizer, window, window + 1);
    return parameters.map((parameter, i) =>
      entriesOf(parameter).flatMap((bits, place) => (bits === before[i][place] ? [] : [place])),
    );
  });
  optimizer.dispose();
  parameters.forEach((parameter) => parameter.dispose());
  return places;
}

const included = { includeEmbedding: true, includeLmHead: true };

test('a ratio of 1 is Adam: the same bits', () => {
  const [whole, parts] = [smallParameters(), smallParameters()];
  // Where eps is added makes no difference when it is 0.
  const reference = adam({ eps: 0 })(whole);
  const optimizer = new BlockOptimizerRatio(parts, { updateRatio: 1, eps: 0, ...included });
  takeSteps(reference, 0, 40);
  takeSteps(optimizer, 0, 40);
  expect(parts.map(entriesOf)).toEqual(whole.map(entriesOf));
  reference.dispose();
  optimizer.dispose();
  [...whole, ...parts].forEach((parameter) => parameter.dispose());
});

describe('which entries are trained', () => {
  test('adjacent: successive stretches, on past the end from the beginning', () => {
    expect(changedPlaces({ updateRatio: 0.42 }, 4).map(([a]) => a)).toEqual([
      [0, 1, 2, 3, 4],
      [5, 6, 7, 8, 9],
      [0, 1, 2, 10, 11],
      [3, 4, 5, 6, 7],
    ]);
  });

  test('scatter: every entry once before any has a second turn; the seed decides in which order', () => {
    const turns = (seed: number) => changedPlaces({ updateRatio: 0.25, maskMode: 'scatter', seed }, 4).map(([a]) => a);
    const all = turns(0);
    expect(all.map((places) => places.length)).toEqual([3, 3, 3, 3]);
    expect(all.flat().sort((a, b) => a - b)).toEqual(Array.from({ length: 12 }, (_, i) => i));
    expect(turns(1)).not.toEqual(all);
    expect(turns(0)).toEqual(all);
  });

  test('keepMask: parameters of one shape share their entries, without it they have their own', () => {
    const names = ['a.weight', 'b.weight', 'c.weight'];
    const shared = changedPlaces({ updateRatio: 0.5, maskMode: 'scatter' }, 1, names)[0];
    expect(shared).toEqual([shared[0], shared[0], shared[0]]);
    const own = changedPlaces({ updateRatio: 0.5, maskMode: 'scatter', keepMask: false }, 1, names)[0];
    expect(new Set(own.map((places) => places.join())).size).toBe(3);
  });

  test('parameters below preserveThreshold train whole; ratios by parts of names hold, the last that matches', () => {
    const counts = (options: BlockOptimizerRatioOptions) =>
      changedPlaces(options, 1, ['mlp.up.weight', 'mlp.down.weight', 'norm.weight'])[0].map(({ length }) => length);
    expect(counts({ updateRatio: 0.25, preserveThreshold: 12 })).toEqual([3, 3, 3]);
    expect(counts({ updateRatio: 0.25, preserveThreshold: 13 })).toEqual([12, 12, 12]);
    expect(counts({ updateRatio: 0.25, paramUpdateRatios: { mlp: 0.5, down: 1 } })).toEqual([6, 12, 3]);
    // At least one entry.
    expect(counts({ updateRatio: 0.01 })).toEqual([1, 1, 1]);
  });
});

test('bfloat16 weights stay at rest; masters and moments are of the masked entries alone', () => {
  const parameters = smallParameters();
  const optimizer = new BlockOptimizerRatio(parameters, { updateRatio: 0.25, preserveThreshold: 0 });
  takeSteps(optimizer, 0, 1);
  expect(parameters.filter((parameter) => parameter.master)).toEqual([]);
  // 17 parameters of 3 masked entries; float32.
  expect(optimizer.memory()).toEqual({ masters: 17 * 3 * 4, states: 17 * 3 * 8 });
  optimizer.dispose();
  parameters.forEach((parameter) => parameter.dispose());
});

test('embedding and head are frozen unless included; a tied head is its embedding', () => {
  const trained = (names: readonly string[], options: BlockOptimizerRatioOptions) => {
    const parameters = smallParameters('float32', [...names]);
    const optimizer = new BlockOptimizerRatio(parameters, options);
    const ends = [...optimizer.trainable].filter((name) => !/layers|model\.norm/.test(name));
    const others = optimizer.trainable.size - ends.length;
    optimizer.dispose();
    parameters.forEach((parameter) => parameter.dispose());
    expect(others).toBe(17);
    return ends;
  };
  const [embedding, head] = ['model.embed_tokens.weight', 'lm_head.weight'];
  expect(trained(smallNames, {})).toEqual([]);
  expect(trained(smallNames, { includeEmbedding: true })).toEqual([embedding]);
  expect(trained(smallNames, { includeLmHead: true })).toEqual([head]);
  const tied = smallNames.filter((name) => name !== head);
  expect(trained(tied, {})).toEqual([]);
  expect(trained(tied, { includeLmHead: true })).toEqual([embedding]);
});

test('a checkpoint of other options is refused, naming them', () => {
  const before = liveTensors();
  const parameters = smallParameters();
  const optimizer = new BlockOptimizerRatio(parameters, { updateRatio: 0.25 });
  const other = new BlockOptimizerRatio(parameters, { updateRatio: 0.5, maskMode: 'scatter' });
  expect(() => other.restore(optimizer.state())).toThrow(
    'the checkpoint does not continue this run: 2 problems\n  - updateRatio was 0.25 and is 0.5 now: give the options of that run\n' +
      '  - maskMode was "adjacent" and is "scatter" now: give the options of that run',
  );
  expect(() => other.restore({ scalars: {}, tensors: new Map() })).toThrow("it is not a BlockOptimizerRatio's");
  optimizer.dispose();
  other.dispose();
  parameters.forEach((parameter) => parameter.dispose());
  expect(liveTensors()).toBe(before);
});

test('the learning rate stays through a change of entries', () => {
  const parameters = smallParameters();
  const optimizer = new BlockOptimizerRatio(parameters, { switchEvery: 2 });
  const gradient = tf.fill(smallShape, 1);
  optimizer.learningRate = 0.25;
  for (let step = 0; step < 5; step++) {
    optimizer.beginStep();
    for (const name of optimizer.trainable) optimizer.update(name, gradient);
    optimizer.endStep();
  }
  expect(optimizer.learningRate).toBe(0.25);
  gradient.dispose();
  optimizer.dispose();
  parameters.forEach((parameter) => parameter.dispose());
});
