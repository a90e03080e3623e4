import { expect, test } from 'vitest';
import { Sketch } from '../fusion/sketch.test-support.ts';
import type { TracedNode } from '../fusion/traced-function.ts';
import { scratchBytes } from './kernel-scratch.ts';

const megabytesOf = (f: Sketch, nodes: readonly TracedNode[]) =>
  nodes.map((node) => scratchBytes(node, (id) => f.bytes(id)) / 2 ** 20);

test('counts as scratch what a kernel writes down at a time', () => {
  const f = new Sketch();
  const [x, w] = [f.input(), f.input('bfloat16')];
  const operands = ['Neg', 'Exp', 'Tanh'].map((type) => f.node('Cast', [f.node(type, [x])], { dtype: 'bfloat16' }));
  const [a, b, c] = operands.map((operand) => f.node('XlaDotV2', [operand, w]));
  const { nodes } = f.fused(f.node('Add', [a, f.node('Add', [b, c])]));
  // Three operands of 0.5 MB, and one product: of the other two the first is in the result's place, the last in that of dead operands.
  expect(megabytesOf(f, nodes)).toEqual([2.5]);
});

test.each([
  ['as scratch where the result is smaller', 'bfloat16', 1],
  ['in the place of a result as large', 'float32', 0],
] as const)('counts what is dear to make and read twice %s', (_, dtype, megabytes) => {
  const f = new Sketch();
  const powers = f.node('Exp', [f.node('Neg', [f.input()])]);
  const sums = f.node('Sum', [powers], { shape: [512, 1] });
  const shares = f.node('RealDiv', [powers, sums]);
  const { nodes } = f.fused(dtype === 'float32' ? shares : f.node('Cast', [shares], { dtype }));
  // And 2 KB for the sums.
  expect(megabytesOf(f, nodes)).toEqual([megabytes + 2 / 2 ** 10]);
});

test('counts as scratch no more than the largest, where each value is made of the one before', () => {
  const f = new Sketch();
  const [x, w] = [f.input('bfloat16'), f.input('bfloat16')];
  let value = x;
  for (let i = 0; i < 3; i++) value = f.node('Cast', [f.node('XlaDotV2', [value, w])], { dtype: 'bfloat16' });
  const { nodes } = f.fused(value);
  // Each product of 1 MB in the place of the one before; operands in the result's.
  expect(megabytesOf(f, nodes)).toEqual([1]);
});
