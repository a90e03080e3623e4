import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildPackage, inDependencyOrder, readPackage, readPackages, type Package } from './build-packages.ts';

const root = join(import.meta.dirname, '../..');
const temporary = mkdtempSync(join(tmpdir(), 'blockwise-build-'));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));

const named = (name: string, ...dependencies: string[]): Package => ({
  name,
  folder: '',
  version: '1.0.0',
  dependencies: Object.fromEntries(dependencies.map((dependency) => [dependency, '1.0.0'])),
  devDependencies: {},
});

describe('the order of the packages', () => {
  it('puts each one after those it depends on', () => {
    const ordered = inDependencyOrder([named('a', 'b', 'c'), named('b', 'c', 'elsewhere'), named('c')]);
    expect(ordered.map(({ name }) => name)).toEqual(['c', 'b', 'a']);
  });

  it('refuses a cycle, and names it', () => {
    const cycle = [named('a', 'b'), named('b', 'c'), named('c', 'b')];
    expect(() => inDependencyOrder(cycle)).toThrow('packages depend on each other: a -> b -> c -> b');
  });

  it('holds every folder of packages/', () => {
    const folders = readPackages().map(({ folder }) => folder);
    const all = readdirSync(join(root, 'packages')).map((name) => join(root, 'packages', name));
    expect(folders.sort()).toEqual(all.filter((folder) => existsSync(join(folder, 'package.json'))).sort());
  });
});

// The packages that inline what is not ours.
describe.each([
  ['tensorflow', [/^@tensorflow\/tfjs-core@/, /^@tensorflow\/tfjs-node-gpu@/, /^long@/], 'long'],
  ['reporting', [/^chartjs-node-canvas@/, /^tslib@/], 'Copyright (c) 2018 Sean Sobey'],
])('the built package %s', (name, inlined, notice) => {
  // Of ours they depend on this one alone.
  beforeAll(() => buildPackage(readPackage(join(root, 'packages/errors'))));

  const item = readPackage(join(root, 'packages', name));
  const output = join(temporary, name);
  const files = () => readdirSync(output, { recursive: true }) as string[];
  const read = (file: string) => readFileSync(join(output, file), 'utf8');

  it('imports nothing but its dependencies, and inlines the rest', async () => {
    const built = await buildPackage(item, output);
    expect(Object.keys(item.dependencies)).toEqual(expect.arrayContaining(built.imported));
    expect(built.inlined).toEqual(inlined.map((pattern) => expect.stringMatching(pattern)));
    const code = files().filter((file) => file.endsWith('.js'));
    expect(code).toContain('index.js');
    const loaded = code.flatMap((file) => [
      ...read(file).matchAll(/(?:from|require\(|import\() ?"([@\w][\w@./:-]*)"/g),
    ]);
    const outside = loaded.map(([, path]) => path).filter((path) => !path.startsWith('.') && !isBuiltin(path));
    expect([...new Set(outside.map((path) => path.replace('/auto', '')))].sort()).toEqual(built.imported);
  });

  it('has declarations of its sources, and of no test', () => {
    const declarations = files().filter((file) => file.endsWith('.d.ts'));
    expect(declarations).toContain('index.d.ts');
    expect(declarations.filter((file) => /test|example/.test(file))).toEqual([]);
  });

  it('carries its own licence and those of what is inside', () => {
    expect(read('LICENSE')).toContain('Apache License');
    expect(read('THIRD_PARTY_LICENSES.txt')).toContain(notice);
  });
});

describe('a package that cannot be built', () => {
  /** A package of one source file, with the package `stray` in reach. */
  function writePackage(name: string, source: string): Package {
    const folder = join(temporary, name);
    const stray = join(folder, 'node_modules/stray');
    mkdirSync(stray, { recursive: true });
    writeFileSync(join(stray, 'package.json'), '{"name":"stray","version":"1.0.0","main":"index.js"}');
    writeFileSync(join(stray, 'index.js'), 'exports.answer = 42;');
    mkdirSync(join(folder, 'src'));
    writeFileSync(join(folder, 'package.json'), JSON.stringify({ name, version: '1.0.0', type: 'module' }));
    writeFileSync(join(folder, 'src/index.ts'), source);
    return readPackage(folder);
  }

  it('imports what package.json does not list: the error names both, and what to do', async () => {
    const item = writePackage('undeclared', "import { answer } from 'stray';\nexport const double = 2 * answer;\n");
    await expect(buildPackage(item)).rejects.toThrow(
      /^undeclared: \S*undeclared\/src\/index\.ts imports stray\. List it in \S*package\.json: under dependencies/,
    );
  });

  it('has a type error: the error names file and line', async () => {
    const item = writePackage('mistyped', "export const count: number = 'three';\n");
    await expect(buildPackage(item)).rejects.toThrow(/mistyped: its types have errors\n\S*src\/index\.ts\(1,14\)/);
  });

  it('inlines a package without a licence', async () => {
    const item = writePackage('unlicensed', "import { answer } from 'stray';\nexport const double = 2 * answer;\n");
    writeFileSync(join(item.folder, 'node_modules/stray/index.d.ts'), 'export const answer: number;\n');
    const inlining = { ...item, devDependencies: { stray: '1.0.0' } };
    await expect(buildPackage(inlining)).rejects.toThrow(/stray is inlined, and has no licence file/);
  });
});
