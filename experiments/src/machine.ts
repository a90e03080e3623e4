import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { cpus, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** What a figure depends on beside the command: as `run.json` saves it. */
export interface Machine {
  cpu: string;
  /** Logical cores. */
  cores: number;
  memoryBytes: number;
  /** Names and memory of the NVIDIA GPUs, null where there is none. */
  gpu: string | null;
}

const here = dirname(fileURLToPath(import.meta.url));

/** This machine; asks nvidia-smi for its GPUs. */
export function describeMachine(): Machine {
  const processors = cpus();
  return {
    cpu: nameOf(processors[0]?.model.trim() ?? 'unknown'),
    cores: processors.length,
    memoryBytes: totalmem(),
    gpu:
      output('nvidia-smi', ['--query-gpu=name,memory.total', '--format=csv,noheader'])?.replaceAll('\n', '; ') || null,
  };
}

/**
 * A processor's name; one without a number, as virtual machines give it (AMD EPYC), tells nothing of its generation: the family and model that Linux
 * knows then stand behind it.
 * @param description what /proc/cpuinfo says
 */
export function nameOf(name: string, description = existsSync(cpuinfo) ? readFileSync(cpuinfo, 'utf8') : ''): string {
  const [family, model] = ['cpu family', 'model'].map(
    (key) => new RegExp(`^${key}\\s*: (\\d+)$`, 'm').exec(description)?.[1],
  );
  return /\d/.test(name) || !family || !model ? name : `${name} (family ${family}, model ${model})`;
}

const cpuinfo = '/proc/cpuinfo';

/** A kind of machine in the name of a folder: amd-epyc-family-26-model-2-2-cores. */
export function machineName({ cpu, cores, gpu }: Machine): string {
  const plain = cpu.replace(/\((R|TM)\)|Processor|CPU|@.*/gi, ' ');
  const name = [plain, `${cores} cores`, gpu?.split(',')[0] ?? ''].join(' ').toLowerCase();
  return name.replace(/[^a-z0-9]+/g, '-').replace(/^-|-$/g, '');
}

/** Versions of this package's direct dependencies, as installed. */
export function packageVersions(): Record<string, string> {
  const { dependencies = {} } = readJson(join(here, '..', 'package.json')) as { dependencies?: Record<string, string> };
  return Object.fromEntries(
    Object.keys(dependencies)
      .sort()
      .map((name) => [name, installedVersion(name)]),
  );
}

/** The Git commit of the code, with `-dirty` where tracked files differ from it; null outside a checkout. */
export function gitCommit(folder = here): string | null {
  const commit = output('git', ['-C', folder, 'rev-parse', 'HEAD']);
  if (!commit) return null;
  return output('git', ['-C', folder, 'status', '--porcelain', '--untracked-files=no']) ? `${commit}-dirty` : commit;
}

function installedVersion(name: string): string {
  for (let folder = here; folder !== dirname(folder); folder = dirname(folder)) {
    const manifest = join(folder, 'node_modules', name, 'package.json');
    if (existsSync(manifest)) return (readJson(manifest) as { version: string }).version;
  }
  return 'not installed';
}

function readJson(path: string): unknown {
  return JSON.parse(readFileSync(path, 'utf8'));
}

/** What a program prints, trimmed; null where it is missing, fails or hangs. */
function output(program: string, words: string[]): string | null {
  try {
    return execFileSync(program, words, {
      encoding: 'utf8',
      timeout: 10_000,
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  } catch {
    return null;
  }
}
