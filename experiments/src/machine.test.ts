import { execFileSync } from 'node:child_process';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { describeMachine, gitCommit, machineName, nameOf, packageVersions } from './machine.ts';

it('describes processor, cores and memory', () => {
  const machine = describeMachine();
  expect(machine.cores).toBe(cpus().length);
  expect(machine.cpu.length).toBeGreaterThan(0);
  expect(machine.memoryBytes).toBeGreaterThan(2 ** 28);
  expect(machine.gpu === null || /MiB/.test(machine.gpu)).toBe(true);
});

it.each([
  ['AMD EPYC (family 26, model 2)', null, 'amd-epyc-family-26-model-2-2-cores'],
  ['Intel(R) Xeon(R) Processor', null, 'intel-xeon-2-cores'],
  ['Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz', null, 'intel-core-i7-9750h-2-cores'],
  ['AMD EPYC', 'NVIDIA H100 80GB HBM3, 81559 MiB', 'amd-epyc-2-cores-nvidia-h100-80gb-hbm3'],
])('names the folder of a kind of machine: %s with %s', (cpu, gpu, name) =>
  expect(machineName({ cpu, cores: 2, memoryBytes: 1, gpu })).toBe(name),
);

it('tells generations of processors apart that have one name', () => {
  const description = (family: number, model: number) =>
    `processor\t: 0\ncpu family\t: ${family}\nmodel\t\t: ${model}\n`;
  expect(nameOf('AMD EPYC', description(26, 2))).toBe('AMD EPYC (family 26, model 2)');
  expect(nameOf('Intel(R) Core(TM) i7-9750H', description(6, 158))).toBe('Intel(R) Core(TM) i7-9750H');
  expect(nameOf('Apple M', '')).toBe('Apple M');
});

it('finds the installed version of every dependency', () => {
  const versions = packageVersions();
  expect(Object.keys(versions)).toEqual(expect.arrayContaining(['@blockwise/training', 'koffi']));
  for (const version of Object.values(versions)) expect(version).toMatch(/^\d+\.\d+\.\d+/);
});

it('names the commit, says when files differ from it, and knows that a plain folder has none', () => {
  const folder = mkdtempSync(join(tmpdir(), 'blockwise-git-'));
  expect(gitCommit(folder)).toBeNull();
  const git = (...words: string[]) =>
    execFileSync('git', ['-C', folder, '-c', 'user.name=t', '-c', 'user.email=t@example.org', ...words], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  git('init', '-q');
  expect(gitCommit(folder)).toBeNull();
  writeFileSync(join(folder, 'a'), '1');
  git('add', 'a');
  git('commit', '-q', '-m', 'a');
  const commit = git('rev-parse', 'HEAD');
  expect(gitCommit(folder)).toBe(commit);
  writeFileSync(join(folder, 'untracked'), '');
  expect(gitCommit(folder)).toBe(commit);
  writeFileSync(join(folder, 'a'), '2');
  expect(gitCommit(folder)).toBe(`${commit}-dirty`);
});
