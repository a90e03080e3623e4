/**
 * Builds every package into its dist/: index.js (one ES module, by esbuild), declarations (by TypeScript), LICENSE, and the licences of
 * the JavaScript inside it that is not ours.
 *
 *     npx nx run tools:build-packages
 *
 * A package's `dependencies` stay outside, to be installed beside it; its `devDependencies` are inlined, because their own installation would
 * fail where their download hosts cannot be reached. What the sources import has to be in one of the two.
 */
import { build, type BuildOptions, type Metafile, type Plugin } from 'esbuild';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire, isBuiltin } from 'node:module';
import { join, relative, sep } from 'node:path';
import ts from 'typescript';

const root = join(import.meta.dirname, '../..');
const require = createRequire(import.meta.url);

/** A package of packages/, as its package.json tells. */
export interface Package {
  name: string;
  folder: string;
  version: string;
  dependencies: Record<string, string>;
  devDependencies: Record<string, string>;
}

/** What one build left. */
export interface BuiltPackage {
  /** Packages that the bundle imports, as `name`, sorted. */
  imported: string[];
  /** Packages whose JavaScript is in the bundle, as `name@version`, sorted. */
  inlined: string[];
  /** Bytes of all JavaScript. */
  bytes: number;
}

/** The packages, each after those of ours that it depends on. */
export function readPackages(folder = join(root, 'packages')): Package[] {
  const packages = readdirSync(folder)
    .filter((name) => existsSync(join(folder, name, 'package.json')))
    .map((name) => readPackage(join(folder, name)));
  return inDependencyOrder(packages);
}

/** The package of a folder. */
export function readPackage(folder: string): Package {
  const { name, version, dependencies = {}, devDependencies = {} } = readJson(join(folder, 'package.json')) as Package;
  return { name, version, folder, dependencies, devDependencies };
}

/** @throws Error naming the packages of a cycle */
export function inDependencyOrder(packages: readonly Package[]): Package[] {
  const ordered = new Set<Package>();
  const visit = (item: Package, path: readonly string[]): void => {
    if (path.includes(item.name))
      throw new Error(`packages depend on each other: ${[...path, item.name].join(' -> ')}`);
    for (const other of packages) if (other.name in item.dependencies) visit(other, [...path, item.name]);
    ordered.add(item);
  };
  for (const item of packages) visit(item, []);
  return [...ordered];
}

/** Builds all packages and prints a line for each. */
export async function buildPackages(): Promise<Package[]> {
  const packages = readPackages();
  for (const item of packages) {
    const { inlined, bytes } = await buildPackage(item);
    const inside = inlined.length > 0 ? `, with ${inlined.join(', ')} inside` : '';
    console.log(`${item.name}: ${(bytes / 1000).toFixed(0)} kB of JavaScript${inside}`);
  }
  return packages;
}

/**
 * Builds one package; those of ours that it depends on have to be built, for their types.
 * @param output the folder to fill, emptied first
 * @throws Error listing type errors, or imports that package.json does not know
 */
export async function buildPackage(item: Package, output = join(item.folder, 'dist')): Promise<BuiltPackage> {
  rmSync(output, { recursive: true, force: true });
  const metafile = await bundle(item, output);
  const inlined = inlinedPackages(metafile);
  refuseUndeclared(item, metafile);
  writeDeclarations(item, output);
  mkdirSync(output, { recursive: true });
  cpSync(join(root, 'LICENSE'), join(output, 'LICENSE'));
  if (inlined.length > 0) writeFileSync(join(output, 'THIRD_PARTY_LICENSES.txt'), inlined.map(licenceOf).join('\n\n'));
  return {
    imported: importedPackages(metafile),
    inlined: inlined.map((folder) => `${readPackage(folder).name}@${readPackage(folder).version}`).sort(),
    bytes: Object.values(metafile.outputs).reduce((sum, { bytes }) => sum + bytes, 0),
  };
}

async function bundle(item: Package, output: string): Promise<Metafile> {
  const { metafile } = await build<BuildOptions & { metafile: true }>({
    absWorkingDir: root,
    entryPoints: [join(item.folder, 'src/index.ts')],
    outdir: output,
    bundle: true,
    // What is imported late (TensorFlow.js's kernels) stays a file of its own.
    splitting: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    external: Object.keys(item.dependencies),
    legalComments: 'eof',
    metafile: true,
    logLevel: 'warning',
    // CommonJS that is inlined into an ES module still calls require() for what stays outside.
    banner: Object.keys(item.devDependencies).length > 0 ? { js: requireBanner } : {},
    plugins: [tfjsWithoutBackends, chartjsOnNapiCanvas],
  });
  return metafile;
}

const requireBanner = [
  "import { createRequire as blockwiseCreateRequire } from 'node:module';",
  'const require = blockwiseCreateRequire(import.meta.url);',
].join('\n');

/**
 * The kernels of @tensorflow/tfjs-node-gpu import @tensorflow/tfjs, of which they need the core, the gradients and the chained operations:
 * its own index.js less layers, converter, data and the other backends. The core stays outside, one instance for them and the user; gradients
 * carry copies of operations, which meet in the core's global registries, as in TensorFlow.js's own builds.
 */
const tfjsWithoutBackends: Plugin = {
  name: 'tfjs-without-backends',
  setup({ onResolve, onLoad }) {
    const core = '@tensorflow/tfjs-core';
    const parts = [`${core}/dist/register_all_gradients`, `${core}/dist/public/chained_ops/register_all_chained_ops`];
    onResolve({ filter: /^@tensorflow\/tfjs$/ }, () => ({ path: 'tfjs', namespace: 'blockwise' }));
    onLoad({ filter: /^tfjs$/, namespace: 'blockwise' }, () => ({
      contents: [...parts.map((part) => `import '${part}';`), `export * from '${core}';`].join('\n'),
      resolveDir: root,
    }));
    onResolve({ filter: /^@tensorflow\/tfjs-core\/dist\// }, ({ path }) => ({ path: require.resolve(`${path}.js`) }));
    // Protocol buffers of the TensorBoard writer, which the engine does not have.
    onLoad({ filter: /tfjs-node-gpu[\\/]dist[\\/]proto[\\/]api_pb\.js$/ }, () => ({
      contents: 'module.exports = {};',
    }));
  },
};

/** chartjs-node-canvas loads a fresh copy of the package `canvas`, whose binaries come from a download host; @napi-rs/canvas has them in npm. */
const chartjsOnNapiCanvas: Plugin = {
  name: 'chartjs-on-napi-canvas',
  setup({ onLoad }) {
    onLoad({ filter: /chartjs-node-canvas[\\/]dist[\\/]freshRequire\.js$/ }, () => ({
      contents: "exports.freshRequire = () => require('@napi-rs/canvas');",
    }));
  },
};

/** Folders of the packages in node_modules that gave code to the bundle. */
function inlinedPackages({ outputs }: Metafile): string[] {
  const used = Object.values(outputs).flatMap(({ inputs }) => Object.entries(inputs));
  const folders = used
    .filter(([, { bytesInOutput }]) => bytesInOutput > 0)
    .map(([file]) => packageFolder(file))
    .filter((folder) => folder !== undefined);
  return [...new Set(folders)].sort().map((folder) => join(root, folder));
}

/** `node_modules/@scope/name` of a file below it. */
function packageFolder(file: string): string | undefined {
  return /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(file)?.[0];
}

function importedPackages({ outputs }: Metafile): string[] {
  const imports = Object.values(outputs).flatMap((output) => output.imports);
  const paths = imports.filter(({ path, external }) => external && !isBuiltin(path)).map(({ path }) => path);
  return [...new Set(paths.map((path) => /^(?:@[^/]+\/)?[^/]+/.exec(path)![0]))].sort();
}

/** An import that package.json does not list would be inlined from wherever npm happened to put it. */
function refuseUndeclared(item: Package, { inputs }: Metafile): void {
  const source = `${relative(root, item.folder).split(sep).join('/')}/src/`;
  const wrong: string[] = [];
  for (const [file, { imports }] of Object.entries(inputs)) {
    if (!file.startsWith(source)) continue;
    for (const { path, original = path, external } of imports) {
      if (external || path.startsWith(source) || original.startsWith('.')) continue;
      const name = /^(?:@[^/]+\/)?[^/]+/.exec(original)![0];
      if (!(name in item.devDependencies)) wrong.push(`${file} imports ${name}`);
    }
  }
  if (wrong.length === 0) return;
  throw new Error(
    `${item.name}: ${wrong.join('; ')}. List it in ${join(item.folder, 'package.json')}: under dependencies to install it ` +
      `beside the package, under devDependencies to inline it.`,
  );
}

/** Declarations of index.ts and what it reaches: tests and their data are not reached. */
function writeDeclarations(item: Package, output: string): void {
  const json = ts.readConfigFile(join(root, 'tsconfig.json'), ts.sys.readFile).config as { compilerOptions: object };
  const { options } = ts.convertCompilerOptionsFromJson(json.compilerOptions, root);
  const program = ts.createProgram([join(item.folder, 'src/index.ts')], {
    ...options,
    // Packages of ours are seen as their users see them: built.
    customConditions: [],
    declaration: true,
    emitDeclarationOnly: true,
    rootDir: join(item.folder, 'src'),
    outDir: output,
  });
  const diagnostics = [...ts.getPreEmitDiagnostics(program), ...program.emit().diagnostics];
  if (diagnostics.length === 0) return;
  const host = {
    getCurrentDirectory: () => root,
    getCanonicalFileName: (name: string) => name,
    getNewLine: () => '\n',
  };
  throw new Error(`${item.name}: its types have errors\n${ts.formatDiagnostics(diagnostics, host)}`);
}

/** A package's name, version and licence, with the licence's text as it ships it. */
function licenceOf(folder: string): string {
  const { name, version, license } = readJson(join(folder, 'package.json')) as Record<string, string>;
  const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
  // TensorFlow.js ships no file; the text of its Apache License is that of our own.
  if (!file && license !== 'Apache-2.0') throw new Error(`${folder} is inlined, and has no licence file (${license})`);
  const text = file ? readFileSync(join(folder, file), 'utf8').trim() : 'See LICENSE.';
  return `${name} ${version} (${license})\n\n${text}\n`;
}

function readJson(path: string): unknown {
  return JSON.parse(readFileSync(path, 'utf8'));
}

if (process.argv[1] === import.meta.filename) await buildPackages();
