import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { faultsOf, wrongSums } from './grammar.test-support.ts';
import { instructionRecords, type AlpacaRecord } from './instructions.ts';
import { animals, opposites } from './world.ts';
import { embeddedData, embeddedFolder } from './write-data.ts';

describe('instructionRecords', () => {
  const records = instructionRecords(embeddedData.instructionSeed, embeddedData.instructionCount);
  const answersTo = (pattern: RegExp): [RegExpExecArray, AlpacaRecord][] =>
    records.flatMap((one) => {
      const found = pattern.exec(`${one.instruction}|${one.input}`);
      return found ? [[found, one] as [RegExpExecArray, AlpacaRecord]] : [];
    });

  it('gives the records of the repository for their seed, and others for another', () => {
    const stored = readFileSync(join(embeddedFolder, 'instructions.json'), 'utf8');
    expect(records).toEqual(JSON.parse(stored));
    expect(stored.length).toBeLessThan(500_000);
    expect(instructionRecords(1, 10)).not.toEqual(records.slice(0, 10));
  });

  it('asks nothing twice and leaves nothing unanswered', () => {
    expect(new Set(records.map(({ instruction, input }) => `${instruction}\n${input}`)).size).toBe(records.length);
    for (const { instruction, output } of records) {
      expect(instruction).toMatch(/^[A-Z].*[.?]$/);
      expect(output).toMatch(/^[A-Z].*[.?!]"?$/);
    }
  });

  it('reads as English', () => {
    const faults = records.flatMap(({ instruction, output }) => [...faultsOf(instruction), ...faultsOf(output)]);
    expect(faults).toEqual([]);
  });

  it('answers truly: sums, counts, orders, plurals, opposites and riddles, checked without the generator', () => {
    const sums = wrongSums(records.map(({ output }) => output).join('\n'));
    expect(sums.wrong).toEqual([]);
    expect(sums.checked).toBeGreaterThan(50);
    const counts = answersTo(/^(?:How many \w+ are in the list\?|Count the \w+\.)\|(.*)$/);
    const words = ['zero', 'one', 'two', 'three', 'four', 'five', 'six'];
    for (const [[, list], { output }] of counts) expect(output).toContain(` ${words[list.split(', ').length]} `);
    expect(counts.length).toBeGreaterThan(20);
    const asked = answersTo(/^What is the opposite of (\w+)\?/);
    for (const [[, word], { output }] of asked) {
      const pair = opposites.find((one) => one.includes(word))!;
      expect(output).toBe(`The opposite of ${word} is ${pair.find((side) => side !== word)}.`);
    }
    expect(asked.length).toBeGreaterThan(20);
    const riddles = answersTo(/My baby is called an? (\w+)\./);
    for (const [[, young], { output, input }] of riddles) {
      const fitting = animals.filter((one) => one.young === young && input.includes(`live ${one.home}.`));
      expect(
        fitting.some(({ name }) => new RegExp(`You are an? ${name}\\.`).test(output)),
        input,
      ).toBe(true);
    }
    expect(riddles.length).toBeGreaterThan(20);
  });

  it('holds many kinds of task', () => {
    const firstWords = new Set(records.map(({ instruction }) => instruction.split(' ').slice(0, 2).join(' ')));
    expect(firstWords.size).toBeGreaterThan(60);
    expect(records.filter(({ input }) => input !== '').length / records.length).toBeGreaterThan(0.25);
  });
});
