/**
 * AdamW on a block of 200 million parameters: what it takes beside the block's own memory, and how its time compares with passes over that
 * memory. `npx nx run experiments:bench-adam`
 */
import { adamW } from '@blockwise/optimizers';
import { describeEngine, initTensorFlow, Parameter, readMemory, takeRaw, tf, Variable } from '@blockwise/tensorflow';
import { spread } from './spread.ts';
import { tiny } from './tiny.ts';
import { gigabytes, note, range, round, writeBenchmark } from './write-benchmark.ts';

const seed = 1;
const rounds = 9;
const tensors = 16;
const shape: [number, number] = tiny ? [100, 125] : [2500, 5000];
const elements = shape[0] * shape[1];

await initTensorFlow();

/** Parameters with masters, an optimizer over them, and gradients that stay; made without temporaries of random numbers. */
function block([rows, columns]: readonly [number, number]) {
  const filled = (value: number) => tf.fill([rows, columns], value);
  const parameters = Array.from(
    { length: tensors },
    (_, i) => new Parameter(`weight.${i}`, takeRaw(filled(0.02), 'float32')),
  );
  const optimizer = adamW({ learningRate: 1e-5 })(parameters);
  const gradients = parameters.map((_, i) => filled(0.001 * (i + 1)));
  const update = () => {
    optimizer.beginStep();
    parameters.forEach(({ name }, i) => optimizer.update(name, gradients[i]));
    optimizer.endStep();
  };
  return { optimizer, gradients, update };
}

const seconds = (work: () => void): number => {
  const begin = performance.now();
  work();
  return (performance.now() - begin) / 1000;
};

block([2, 2]).update(); // code and constants are in memory from here on
// The allocator keeps what is freed, so that growth during a late update would show no temporary: all counts from before the block.
const { resident: before } = readMemory();
const { optimizer, gradients, update } = block(shape);
update();
update();
const { masters, states } = optimizer.memory();
const blockBytes = masters + states + 4 * elements * tensors;
for (let i = 0; i < 3; i++) update();
const extra = readMemory().peakResident - before - blockBytes;

/** a += b over tensors of the block's size: two arrays read, one written. */
const sums = gradients.map((gradient) => {
  const initial = tf.zerosLike(gradient);
  const variable = new Variable(initial);
  initial.dispose();
  return variable;
});
const add = () => sums.forEach((sum, i) => sum.add(gradients[i]));
add();

const measured: { update: number; pass: number; ratio: number }[] = [];
for (let i = 0; i < rounds; i++) {
  // 12 bytes an element; reading and writing the block once moves twice its bytes.
  const pass = (seconds(add) * 2 * blockBytes) / (12 * elements * tensors);
  const taken = seconds(update);
  measured.push({ update: taken, pass, ratio: taken / (3 * pass) });
  note(`round ${i + 1}/${rounds}: update ${taken.toFixed(3)} s, a pass ${pass.toFixed(3)} s`);
}

const [updates, passes, ratios] = [
  spread(measured.map(({ update }) => update)),
  spread(measured.map(({ pass }) => pass)),
  spread(measured.map(({ ratio }) => ratio)),
];
writeBenchmark({
  name: 'bench-adam',
  title: "AdamW's update of a block, in place",
  seed,
  figures: { extraBytesOverBlock: round(extra / blockBytes), timeOverThreePasses: round(ratios.median) },
  rows: [
    { figure: 'update, seconds', median: round(updates.median), 'min - max': range(updates) },
    { figure: 'a pass, seconds', median: round(passes.median), 'min - max': range(passes) },
    { figure: 'update over three passes', median: round(ratios.median), 'min - max': range(ratios) },
    { figure: 'extra memory, GB', median: gigabytes(extra), 'min - max': null },
  ],
  notes: [
    `${(elements * tensors) / 1e6} million parameters in ${tensors} float32 tensors: ${gigabytes(blockBytes)} GB of masters, two moments and gradients; weight decay on.`,
    'A pass is reading and writing those bytes once, at the speed that a += b reaches on arrays of the same sizes in the same process, in turns. Its bytes count 8 an element of each of the four arrays; an update itself moves fewer.',
    'Extra memory is the peak resident set over five updates, the first included, less what was resident before the block was made and less the block: temporaries (those of making the masters too), and what the allocator keeps of them. The JSON figure is its share of the block.',
  ],
  measurements: { before, blockBytes, extraBytes: extra, rounds: measured },
  versions: { tensorflow: describeEngine().tensorflow },
});
