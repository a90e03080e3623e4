import { UserError } from '@blockwise/errors';
import { initTensorFlow, Parameter, RawTensor, tf } from '@blockwise/tensorflow';
import { beforeAll, expect, test } from 'vitest';
import { adamW, BlockOptimizer, BlockOptimizerRatio, lomo, sgd, type BlockOptimizerOptions } from './index.ts';
import { smallNames, smallParameters, smallShape, takeSteps } from './small-parameters.test-support.ts';

beforeAll(() => initTensorFlow());

/** Runs `body` with an optimizer over fresh small parameters, and frees both. */
function withBlocks(options: BlockOptimizerOptions, body: (o: BlockOptimizer, p: Parameter[]) => void, base = adamW()) {
  const parameters = smallParameters();
  const optimizer = new BlockOptimizer(base, parameters, options);
  body(optimizer, parameters);
  optimizer.dispose();
  parameters.forEach((parameter) => parameter.dispose());
}

/** The block trained at each of the steps 1 ... n. */
function trainedAt(optimizer: BlockOptimizer, steps: number): number[] {
  return Array.from({ length: steps }, (_, step) => {
    const { index } = optimizer.currentBlock;
    takeSteps(optimizer, step, step + 1);
    return index;
  });
}

test('every block gets K steps (Algorithm 1); compat official gives the first K - 1', () => {
  const ascending = { switchMode: 'ascending', switchBlockEvery: 3 } as const;
  withBlocks(ascending, (o) => expect(trainedAt(o, 13)).toEqual([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 0]));
  withBlocks({ ...ascending, compat: 'official' }, (o) =>
    expect(trainedAt(o, 13)).toEqual([0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 0, 0]),
  );
  withBlocks({ ...ascending, switchBlockEvery: 1 }, (o) => expect(trainedAt(o, 5)).toEqual([0, 1, 2, 3, 0]));
});

test('the history tells block-epoch, block and steps of every turn', () => {
  withBlocks({ switchMode: 'descending', switchBlockEvery: 2 }, (optimizer) => {
    takeSteps(optimizer, 0, 9);
    expect(optimizer.blockEpoch).toBe(1);
    expect(optimizer.history).toEqual([
      { blockEpoch: 0, block: 3, prefixes: ['model.layers.3.'], firstStep: 1, lastStep: 2 },
      { blockEpoch: 0, block: 2, prefixes: ['model.layers.2.'], firstStep: 3, lastStep: 4 },
      { blockEpoch: 0, block: 1, prefixes: ['model.layers.1.'], firstStep: 5, lastStep: 6 },
      { blockEpoch: 0, block: 0, prefixes: ['model.layers.0.'], firstStep: 7, lastStep: 8 },
      { blockEpoch: 1, block: 3, prefixes: ['model.layers.3.'], firstStep: 9, lastStep: 9 },
    ]);
  });
});

test('only the current block changes; all others keep every bit and have no master', () => {
  withBlocks({ switchBlockEvery: 4, includeEmbedding: true, includeLmHead: true }, (optimizer, parameters) => {
    let compared = 0;
    for (let turn = 0; turn < 12; turn++) {
      const before = parameters.map((parameter) => parameter.bytes());
      const active = new Set(optimizer.currentBlock.names);
      expect(optimizer.trainable).toEqual(active);
      takeSteps(optimizer, 4 * turn, 4 * turn + 3);
      parameters.forEach((parameter, i) => {
        expect(parameter.master !== undefined).toBe(active.has(parameter.name));
        if (active.has(parameter.name)) return expect(parameter.bytes()).not.toEqual(before[i]);
        expect(parameter.bytes()).toEqual(before[i]);
        compared++;
      });
      takeSteps(optimizer, 4 * turn + 3, 4 * turn + 4);
    }
    expect(compared).toBeGreaterThan(150);
  });
});

test('each turn begins with fresh states: equal to a new AdamW over the block', () => {
  const alone = smallParameters('float32').slice(1, 5);
  const blocks = smallParameters('float32');
  const optimizer = new BlockOptimizer(adamW(), blocks, { order: [0, 1], switchBlockEvery: 4 });
  takeSteps(optimizer, 0, 12);
  // The gradients follow from name and step, so block 0 alone can be replayed: steps 1-4, then 9-12 with a new AdamW.
  for (const [first, last] of [
    [0, 4],
    [8, 12],
  ]) {
    // prettier-ignore
    const adam = adamW()(alone);
    takeSteps(adam, first, last);
    adam.dispose();
  }
  alone.forEach((parameter, i) => expect(parameter.bytes()).toEqual(blocks[i + 1].bytes()));
  optimizer.dispose();
  [...alone, ...blocks].forEach((parameter) => parameter.dispose());
});

test('one block of everything equals the base optimizer until the first switch', () => {
  const [full, block] = [smallParameters(), smallParameters()];
  const plain = adamW()(full);
  const blockwise = new BlockOptimizer(adamW(), block, {
    blockPrefixList: [['model', 'lm_head']],
    switchBlockEvery: 30,
  });
  takeSteps(plain, 0, 29);
  takeSteps(blockwise, 0, 29);
  block.forEach((parameter, i) => expect(parameter.bytes()).toEqual(full[i].bytes()));
  for (const optimizer of [plain, blockwise]) optimizer.dispose();
  [...full, ...block].forEach((parameter) => parameter.dispose());
});

test('active modules are trained all the time and keep their states and masters across switches', () => {
  const [full, block] = [smallParameters(), smallParameters()];
  const norm = smallNames.indexOf('model.norm.weight');
  const plain = adamW()([full[norm]]);
  const blockwise = new BlockOptimizer(adamW(), block, { activeModules: ['model.norm.'], switchBlockEvery: 3 });
  const master = block[norm].master;
  takeSteps(plain, 0, 20);
  takeSteps(blockwise, 0, 20);
  expect(blockwise.trainable).toEqual(new Set([...blockwise.currentBlock.names, 'model.norm.weight']));
  expect(block[norm].master).toBe(master);
  expect(block[norm].bytes()).toEqual(full[norm].bytes());
  for (const optimizer of [plain, blockwise]) optimizer.dispose();
  [...full, ...block].forEach((parameter) => parameter.dispose());
});

test('a block that follows itself keeps its masters, and drops its states', () => {
  withBlocks({ switchMode: 'fixed', startBlock: 1, switchBlockEvery: 2 }, (optimizer, parameters) => {
    const { master } = parameters[5];
    takeSteps(optimizer, 0, 2);
    expect(parameters[5].master).toBe(master);
    expect(optimizer.memory().states).toBe(0);
    expect(optimizer.history.map(({ block, blockEpoch }) => [block, blockEpoch])).toEqual([[1, 0], [1, 1]]); // prettier-ignore
  });
});

test('memory: masters of one block, and two moments after its first step', () => {
  withBlocks({}, (optimizer) => {
    const block = 4 * (4 * 12);
    expect(optimizer.memory()).toEqual({ masters: block, states: 0 });
    takeSteps(optimizer, 0, 1);
    expect(optimizer.memory()).toEqual({ masters: block, states: 2 * block });
  });
});

test('stochastic rounding keeps updates below half a unit on average, nearest rounding loses them', () => {
  // 1 in bfloat16 has neighbours 1/128 above and 1/256 below. A turn adds 1/1024 to 40,000 ones.
  const values = 40_000;
  const ones = () => new Uint8Array(Uint16Array.from({ length: values }, () => 0x3f80).buffer);
  const after = (options: BlockOptimizerOptions): Uint16Array => {
    const p = new Parameter('layers.0.w', RawTensor.fromBytes(ones(), [values], 'bfloat16'));
    const q = new Parameter('layers.1.w', RawTensor.fromBytes(ones(), [values], 'bfloat16'));
    const o = new BlockOptimizer(sgd(), [p, q], { switchBlockEvery: 1, switchMode: 'ascending', ...options });
    o.learningRate = 1;
    const gradient = tf.fill([values], -1 / 1024);
    for (let step = 0; step < 2; step++) {
      o.beginStep();
      for (const name of o.trainable) o.update(name, gradient);
      o.endStep();
    }
    // Block 0 is active again: its master holds what was rounded.
    const bits = [p, q].flatMap((parameter) => [...new Uint16Array(parameter.bytes().buffer)]);
    for (const owned of [gradient, o, p, q]) owned.dispose();
    return Uint16Array.from(bits);
  };
  expect(new Set(after({}))).toEqual(new Set([0x3f80]));
  const rounded = after({ rounding: { mode: 'stochastic', seed: 1 } });
  expect(new Set(rounded)).toEqual(new Set([0x3f80, 0x3f81]));
  for (const part of [rounded.slice(0, values), rounded.slice(values)]) {
    // A share of 1/8 goes up: 5,000 with a standard deviation of 66; five of them allowed.
    expect(Math.abs(part.filter((bits) => bits === 0x3f81).length - values / 8)).toBeLessThan(330);
  }
  // Other numbers for each parameter and switch, the same in a second run, others for another seed.
  expect(rounded.slice(0, values)).not.toEqual(rounded.slice(values));
  expect(after({ rounding: { mode: 'stochastic', seed: 1 } })).toEqual(rounded);
  expect(after({ rounding: { mode: 'stochastic', seed: 2 } })).not.toEqual(rounded);
});

test('verbose 0 says nothing, 1 each switch, 2 also the names', () => {
  const lines = (verbose: 0 | 1 | 2) => {
    const found: string[] = [];
    const log = (line: string) => found.push(line);
    const options = { verbose, log, switchMode: 'ascending', switchBlockEvery: 2, activeModules: ['lm_head'] } as const;
    withBlocks(options, (optimizer) => takeSteps(optimizer, 0, 2));
    return found;
  };
  const first = 'step 1, block-epoch 0: training block 0 of 4 (model.layers.0.), 4 parameters and 1 always active';
  expect(lines(0)).toEqual([]);
  expect(lines(1)).toEqual([
    first,
    first.replace('step 1', 'step 3').replace('block 0 of', 'block 1 of').replace('s.0', 's.1'),
  ]);
  expect(lines(2).slice(0, 3)).toEqual([first, ...smallNames.slice(1, 3).map((name) => `  ${name}`)]);
  expect(lines(2).length).toBe(2 + 10);
});

test('the learning rate passes through switches', () => {
  withBlocks({ switchBlockEvery: 1, activeModules: ['lm_head.'] }, (optimizer) => {
    expect(optimizer.learningRate).toBe(1e-3);
    takeSteps(optimizer, 0, 2);
    expect(optimizer.learningRate).toBe(0.025);
  });
});

test('options out of range are refused in one error, before any master is made', () => {
  const parameters = smallParameters();
  const options = {
    ...{ switchBlockEvery: -1, switchMode: 'assending', startBlock: 4, seed: -1, order: [0, 7] },
    ...{ compat: 'oficial', rounding: { mode: 'stochastic', seed: 0.5 } },
  } as unknown as BlockOptimizerOptions;
  const block = '0 to 3, there being 4 blocks';
  expect(() => new BlockOptimizer(adamW(), parameters, options)).toThrow(
    new UserError(
      [
        "BlockOptimizer's options: 7 problems",
        'switchMode is assending (did you mean ascending?): expected random, ascending, descending, fixed',
        'seed is -1, expected a non-negative integer',
        `startBlock is 4, expected ${block}`,
        `order contains 7, expected ${block}`,
        "switchBlockEvery is -1, expected an integer of at least 1; switchBlockEvery(n, B, D) gives the paper's choice",
        'compat is oficial, expected official or nothing',
        'rounding.seed is 0.5, expected an integer',
      ].join('\n  - '),
    ),
  );
  const wrong = { order: [], startBlock: -1, blockPrefixList: [['x']], rounding: { mode: 'up' } };
  expect(() => new BlockOptimizer(adamW(), parameters, wrong as unknown as BlockOptimizerOptions)).toThrow(
    /no parameter matches the prefix "x".*\n.*startBlock is -1, expected a non-negative integer\n.*order is empty, expected at least one block\n.*rounding.mode is up, expected nearest or stochastic/,
  );
  expect(parameters.every((parameter) => parameter.master === undefined)).toBe(true);
  parameters.forEach((parameter) => parameter.dispose());
});

test('stochastic rounding of float16 weights is refused at once', () => {
  const names = ['layers.0.w', 'layers.1.w'];
  const parameters = names.map(
    (name) => new Parameter(name, RawTensor.fromBytes(new Uint8Array(24), smallShape, 'float16')),
  );
  const options: BlockOptimizerOptions = { rounding: { mode: 'stochastic', seed: 1 } };
  expect(() => new BlockOptimizer(adamW(), parameters, options)).toThrow(
    'stochastic rounding is made for bfloat16, but layers.0.w and 1 more is stored as float16: use rounding nearest or bfloat16 weights',
  );
  parameters.forEach((parameter) => parameter.dispose());
});

test('stochastic rounding of float16 weights is refused by the other optimizers too', () => {
  const weight = () => new Parameter('w', RawTensor.fromBytes(new Uint8Array(24), smallShape, 'float16'));
  const rounding = { mode: 'stochastic', seed: 1 } as const;
  const makers = [
    (p: Parameter) => lomo({ rounding })([p]),
    (p: Parameter) => adamW({ masters: 'transient', rounding })([p]),
    (p: Parameter) => new BlockOptimizerRatio([p], { rounding }),
  ];
  for (const make of makers) {
    const parameter = weight();
    expect(() => make(parameter)).toThrow('stochastic rounding is made for bfloat16, but w is stored as float16');
    parameter.dispose();
  }
});

test('stochastic rounding without masters is another one in every visit and layer, so that small updates survive on average', () => {
  // 0.05 of a unit in the last place of 1 a step, 160 visits of 2 steps to each layer: 16 units, 90 % never moved where noise repeats.
  const names = ['layers.0.w', 'layers.1.w'];
  const size = 4096;
  const parameters = names.map((name) => {
    const ones = new Uint16Array(size).fill(0x3f80);
    return new Parameter(name, RawTensor.fromBytes(new Uint8Array(ones.buffer), [size], 'bfloat16'));
  });
  const rounding = { mode: 'stochastic', seed: 1 } as const;
  const learningRate = 0.05 * 2 ** -7;
  const optimizer = new BlockOptimizer(sgd({ learningRate, masters: 'transient', rounding }), parameters, { switchBlockEvery: 2, switchMode: 'ascending' }); // prettier-ignore
  const gradient = tf.fill([size], -1);
  for (let step = 0; step < 640; step++) {
    optimizer.beginStep();
    for (const name of optimizer.trainable) optimizer.update(name, gradient);
    optimizer.endStep();
  }
  gradient.dispose();
  optimizer.dispose();
  const [first, second] = parameters.map((parameter) => new Uint16Array(parameter.bytes().slice().buffer));
  const share = (values: Uint16Array, test: (value: number, i: number) => boolean) => values.filter(test).length / size;
  expect(share(first, (value) => value === 0x3f80)).toBeLessThan(0.01);
  expect(share(first, (value, i) => value === second[i])).toBeLessThan(0.3);
  const units = first.reduce((sum, value) => sum + value - 0x3f80, 0) / size;
  expect(Math.abs(units - 16)).toBeLessThan(1);
  parameters.forEach((parameter) => parameter.dispose());
});

test('the loss scale that was found goes on with the next block', () => {
  const parameters = ['layers.0.w', 'layers.1.w'].map(
    (name) => new Parameter(name, RawTensor.fromBytes(new Uint8Array(24), smallShape, 'float16')),
  );
  const optimizer = new BlockOptimizer(lomo({ lossScale: {} }), parameters, { switchBlockEvery: 2 });
  const scales: number[] = [];
  for (let step = 0; step < 6; step++) {
    optimizer.beginStep();
    optimizer.lossScaler!.update(true);
    scales.push(optimizer.lossScaler!.scale);
    optimizer.endStep();
  }
  expect(scales).toEqual([31, 30, 29, 28, 27, 26].map((power) => 2 ** power));
  optimizer.dispose();
  parameters.forEach((parameter) => parameter.dispose());
});

test('a checkpoint of another setup is refused, naming each difference', () => {
  withBlocks({ switchMode: 'ascending', switchBlockEvery: 5 }, (first) => {
    const state = first.state();
    withBlocks({ switchMode: 'fixed', includeLmHead: true, activeModules: ['model.norm.'] }, (second) => {
      const message = (() => {
        try {
          second.restore(state);
        } catch (error) {
          return (error as Error).message;
        }
      })();
      expect(message?.split('\n  - ').map((line) => line.replace(/\.\.\./g, ''))).toEqual([
        'the checkpoint does not continue this run: 5 problems',
        'switchBlockEvery was 5 and is 50 now: give the options of that run',
        'switchMode was "ascending" and is "fixed" now: give the options of that run',
        expect.stringMatching(/^blocks was \[\["model.layers.0.self_attn.q_proj.weight".* and is .* now: give/),
        'activeModules was [] and is ["model.norm.weight"] now: give the options of that run',
        'it has no state of the active modules',
      ]);
      expect(() => second.restore({ scalars: {}, tensors: new Map() })).toThrow(
        /it is not a BlockOptimizer's\n.*step is undefined, not an integer\n.*it has no history of blocks\n.*it has no state of the base optimizer\n/,
      );
    });
  });
});
