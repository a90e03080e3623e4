/**
 * Checks that the packages work for their users: builds and packs them, installs the tarballs into an empty project with a plain `npm install`
 * (install scripts allowed), type-checks package-consumer.ts there against the declarations, and runs it with plain node.
 *
 *     npx nx run tools:check-packages
 */
import assert from 'node:assert/strict';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { $ } from 'zx';
import { buildPackages, type Package } from './build-packages.ts';

const root = join(import.meta.dirname, '../..');
const model = join(root, 'datasets/embedded/model');
const instructions = join(root, 'datasets/embedded/instructions.json');

/** What only developers of Blockwise install: their installers download from hosts of their own. */
const unwanted = /^(@tensorflow\/tfjs(-node.*)?|canvas|chartjs-node-canvas|@mapbox\/node-pre-gyp)$/;

async function main(): Promise<void> {
  const packages = await buildPackages();
  const project = mkdtempSync(join(tmpdir(), 'blockwise-project-'));
  try {
    const tarballs = await pack(packages, project);
    await install(project, tarballs, packages);
    await useThem(project);
  } finally {
    rmSync(project, { recursive: true, force: true });
  }
  console.log(`${packages.length} packages pack, install, type-check and run in an empty project`);
}

async function pack(packages: readonly Package[], project: string): Promise<string[]> {
  const folders = packages.map(({ folder }) => folder);
  const run = $({ cwd: root, quiet: true });
  const packed = JSON.parse((await run`npm pack --json --pack-destination ${project} ${folders}`).stdout) as {
    filename: string;
    size: number;
    unpackedSize: number;
    files: { path: string }[];
  }[];
  assert.equal(packed.length, packages.length);
  for (const { filename, size, unpackedSize, files } of packed) {
    const paths = files.map(({ path }) => path);
    for (const path of ['dist/index.js', 'dist/index.d.ts', 'dist/LICENSE', 'README.md'])
      assert(paths.includes(path), `${filename} lacks ${path}`);
    const stray = paths.filter((path) => /\.test\.|golden|^src\//.test(path));
    assert.deepEqual(stray, [], `${filename} holds files that are not for users`);
    console.log(
      `${basename(filename)}: ${kilobytes(size)}, unpacked ${kilobytes(unpackedSize)}, ${files.length} files`,
    );
  }
  return packed.map(({ filename }) => join(project, basename(filename)));
}

const kilobytes = (bytes: number) => `${(bytes / 1000).toFixed(0)} kB`;

async function install(project: string, tarballs: readonly string[], packages: readonly Package[]): Promise<void> {
  writeFileSync(join(project, 'package.json'), JSON.stringify({ name: 'project', private: true, type: 'module' }));
  // Flags beat what npm and nx put into the environment when this runs as a script of theirs.
  await $({
    cwd: project,
    stdio: 'inherit',
  })`npm install --ignore-scripts=false --no-audit --no-fund ${tarballs} @types/node@20`;
  const lock = JSON.parse(readFileSync(join(project, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { version: string; hasInstallScript?: boolean }>;
  };
  const installed = Object.entries(lock.packages).filter(([path]) => path !== '');
  const names = installed.map(([path]) => path.replace(/^.*node_modules\//, ''));
  assert.deepEqual(
    names.filter((name) => unwanted.test(name)),
    [],
    'packages that are for developers only were installed',
  );
  for (const { name } of packages) assert(names.includes(name), `${name} was not installed`);
  assert.equal(names.filter((name) => name === '@tensorflow/tfjs-core').length, 1, 'there has to be one tfjs-core');
  const scripts = installed.filter(([, { hasInstallScript }]) => hasInstallScript).map(([path]) => basename(path));
  console.log(`installed ${installed.length} packages; with install scripts: ${scripts.join(', ') || 'none'}`);
}

async function useThem(project: string): Promise<void> {
  copyFileSync(join(import.meta.dirname, 'package-consumer.ts'), join(project, 'consumer.ts'));
  const compilerOptions = {
    target: 'ES2022',
    // TensorFlow.js's declarations name browser types; with skipLibCheck false they are checked, and ours with them.
    lib: ['ES2023', 'DOM'],
    module: 'NodeNext',
    strict: true,
    exactOptionalPropertyTypes: true,
    skipLibCheck: false,
  };
  writeFileSync(join(project, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['consumer.ts'] }));
  const records = (JSON.parse(readFileSync(instructions, 'utf8')) as object[]).slice(0, 3);
  writeFileSync(join(project, 'records.json'), JSON.stringify(records));
  const run = $({ cwd: project, stdio: 'inherit' });
  await run`node ${join(root, 'node_modules/typescript/bin/tsc')} -p .`;
  console.log('the declarations type-check in strict NodeNext');
  await run`node consumer.js ${model} records.json out`;
}

if (process.argv[1] === import.meta.filename) await main();
