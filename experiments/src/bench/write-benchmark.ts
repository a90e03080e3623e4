import { markdownTable, writeAside } from '@blockwise/reporting';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { repository } from '../embedded.ts';
import { describeMachine, gitCommit, machineName, packageVersions, type Machine } from '../machine.ts';
import type { Spread } from './spread.ts';
import { tiny } from './tiny.ts';

/** A benchmark's result. */
export interface BenchmarkResult {
  /** The Nx target: bench-layers. */
  name: string;
  title: string;
  /** Inside results/; default benchmarks. */
  folder?: string;
  /** Whether its figures are those of a kind of machine, which then has a folder of its own in there. Default true. */
  byMachine?: boolean;
  /** Whether all of its parts were measured (see chooseParts()): else nothing is recorded. Default true. */
  isWhole?: boolean;
  seed: number;
  /** The line that the benchmark ends with. */
  figures: object;
  /** Rows of one table, all with the same keys, which are its heading. */
  rows: readonly Readonly<Record<string, string | number | null>>[];
  /** What a reader must know to judge the table: a sentence each. */
  notes: readonly string[];
  /** Everything behind the table. */
  measurements: unknown;
  /** Of what is not one of this package's dependencies. */
  versions?: Readonly<Record<string, string>>;
}

/**
 * Leaves results/<folder>/<machine>/<name>.json and .md (tiny runs: results/<folder>/tiny/, which Git ignores), or, of some parts alone, shows the
 * table and leaves nothing; prints the figures as the last line.
 */
export function writeBenchmark(result: BenchmarkResult): void {
  const machine = describeMachine();
  const record = {
    ...{ name: result.name, title: result.title, command: `npx nx run experiments:${result.name}`, seed: result.seed },
    ...{ date: new Date().toISOString(), commit: gitCommit(), machine },
    versions: { node: process.version, ...packageVersions(), ...result.versions },
    environment: { GLIBC_TUNABLES: process.env.GLIBC_TUNABLES ?? null },
    ...{ figures: result.figures, rows: result.rows, notes: result.notes, measurements: result.measurements },
  };
  const table = markdown(record);
  if (result.isWhole ?? true) {
    const folder = resultFolder(machine, result.folder, result.byMachine);
    mkdirSync(folder, { recursive: true });
    writeAside(join(folder, `${result.name}.json`), `${JSON.stringify(record, undefined, 2)}\n`);
    writeAside(join(folder, `${result.name}.md`), table);
    note(`written to ${join(folder, result.name)}.md and .json`);
  } else note(`${table}\nnot recorded: a record is of all parts`);
  process.stdout.write(`${JSON.stringify(result.figures)}\n`);
}

function resultFolder(machine: Machine, folder = 'benchmarks', byMachine = true): string {
  return join(repository, 'results', folder, tiny ? 'tiny' : byMachine ? machineName(machine) : '');
}

/** The measurements that the last run of a benchmark on this kind of machine left; undefined where there are none. */
export function lastMeasurements(name: string): Record<string, unknown> | undefined {
  const path = join(resultFolder(describeMachine()), `${name}.json`);
  if (!existsSync(path)) return undefined;
  return (JSON.parse(readFileSync(path, 'utf8')) as { measurements: Record<string, unknown> }).measurements;
}

/** What the Markdown shows. */
type Shown = Pick<BenchmarkResult, 'title' | 'rows' | 'notes' | 'seed'> & {
  command: string;
  date: string;
  commit: string | null;
  machine: Machine;
  versions: Readonly<Record<string, string>>;
};

function markdown({ title, rows, notes, command, seed, date, commit, machine, versions }: Shown): string {
  const heading = Object.keys(rows[0]);
  const { cpu, cores, memoryBytes, gpu } = machine;
  return [
    `# ${title}`,
    '',
    markdownTable(
      heading.map((title, column) => ({ title, numeric: column > 0 })),
      rows.map((row) => heading.map((key) => row[key])),
    ),
    ...notes.map((note) => `- ${note}`),
    `- Command: \`${command}\`; seed ${seed}; ${date.slice(0, 10)}; commit ${commit ?? 'none'}.`,
    `- Machine: ${cpu}, ${cores} cores, ${(memoryBytes / 1e9).toFixed(1)} GB, ${gpu ?? 'no GPU'}.`,
    `- Versions: ${Object.entries(versions)
      .map(([name, version]) => `${name} ${version}`)
      .join(', ')}.`,
    '',
  ].join('\n');
}

/** Says a line of a benchmark's progress. */
export const note = (line: string) => void process.stderr.write(`${line}\n`);

/** To `digits` significant ones, for JSON and tables. */
export function round(value: number, digits = 4): number {
  return Number(value.toPrecision(digits));
}

/** The ends of a spread, each as round() gives it. */
export const range = ({ min, max }: Spread, digits?: number) => `${round(min, digits)} - ${round(max, digits)}`;

/** Bytes as gigabytes (1e9). */
export const gigabytes = (bytes: number): number => round(bytes / 1e9);
