import type { RunRecord } from './run-record.ts';
import { markdownTable } from './tables.ts';

const kinds = [
  ['parameters', 'parameters'],
  ['gradients', 'gradients'],
  ['optimizerStates', 'optimizer states'],
  ['activations', 'activations'],
  ['workspace', 'workspace'],
  ['peak', 'peak'],
] as const;

const systemKinds = [
  ['peakResident', 'peak resident (process)'],
  ['peakAnonymous', 'peak anonymous'],
  ['peakFileBacked', 'peak file-backed'],
] as const;

/** Bytes that Adam in mixed precision keeps for `parameters` parameters: the paper's 18M (BAdam Table 1). */
export function adamBytes(parameters: number): number {
  return 18 * parameters;
}

/** Bytes that BAdam keeps for `parameters` parameters in `blocks` blocks (0, of which older failed runs have records: 1): the paper's 2M + 16M/D (BAdam Table 1). */
export function badamBytes(parameters: number, blocks: number): number {
  return 2 * parameters + (16 * parameters) / Math.max(1, blocks);
}

/**
 * The memory of a run as Markdown: planned beside measured for each kind with their ratio, the paper's formulas beside
 * the same kinds of this run, and below where the figures come from. GB = 1e9 bytes, or MB = 1e6 in runs below 1 GB.
 */
export function memoryMarkdown(record: RunRecord): string {
  const { planned, measured } = record.memory;
  const bytes = [...Object.values(planned ?? {}), ...Object.values(measured)].filter((value) => value !== null);
  const unit: Unit = Math.max(0, ...bytes) >= 1e9 ? { name: 'GB', bytes: 1e9 } : { name: 'MB', bytes: 1e6 };

  const memory = markdownTable(
    [
      { title: 'kind' },
      { title: `planned (${unit.name})`, numeric: true },
      { title: `measured (${unit.name})`, numeric: true },
      { title: 'measured / planned', numeric: true },
    ],
    [
      ...kinds.map(([kind, label]) => {
        const [before, after] = [planned?.[kind] ?? null, measured[kind]];
        const ratio = before && after !== null ? (after / before).toFixed(2) : null;
        return [label, inUnit(before, unit), inUnit(after, unit), ratio];
      }),
      ...systemKinds.map(([kind, label]) => [label, null, inUnit(measured[kind], unit), null]),
    ],
  );
  const sections = [
    `# Memory of ${record.name}`,
    `${unit.name} = ${unit.bytes.toExponential().replace('+', '')} bytes. Empty cells were not measured. A peak is one moment's sum, so it can be less than its kinds together.`,
    memory,
    '## Beside the formulas of the paper',
    'BAdam (arXiv 2404.02827) Table 1, for M = parameters in billions and D blocks; they count parameters, gradients and optimizer states, and neither activations nor workspace.',
    formulaTable(record, unit),
    '## Where this comes from',
    origin(record),
  ];
  return `${sections.map((section) => section.trimEnd()).join('\n\n')}\n`;
}

interface Unit {
  name: string;
  bytes: number;
}

function inUnit(bytes: number | null, unit: Unit): string | null {
  return bytes === null ? null : (bytes / unit.bytes).toFixed(3);
}

function formulaTable(record: RunRecord, unit: Unit): string {
  const { parameters, blocks } = record.model;
  const stateful = (memory: RunRecord['memory']['planned']) =>
    memory && memory.parameters !== null && memory.gradients !== null && memory.optimizerStates !== null
      ? memory.parameters + memory.gradients + memory.optimizerStates
      : null;
  const size = `M = ${Number((parameters / 1e9).toPrecision(6))}`;
  return markdownTable(
    [{ title: 'method' }, { title: 'formula' }, { title: `memory (${unit.name})`, numeric: true }],
    [
      ['Adam', `18M, ${size}`, inUnit(adamBytes(parameters), unit)],
      ['BAdam', `2M + 16M/D, ${size}, D = ${blocks}`, inUnit(badamBytes(parameters, blocks), unit)],
      ['this run, planned', 'parameters + gradients + optimizer states', inUnit(stateful(record.memory.planned), unit)],
      [
        'this run, measured',
        'parameters + gradients + optimizer states',
        inUnit(stateful(record.memory.measured), unit),
      ],
    ],
  );
}

/** What a figure needs to be believed: command, machine, versions, commit and seed. */
function origin(record: RunRecord): string {
  const { machine, versions } = record;
  const gibibytes = (machine.memoryBytes / 2 ** 30).toFixed(0);
  const packages = Object.entries(versions.packages).map(([name, version]) => `${name} ${version}`);
  return [
    `- command: \`${record.command}\``,
    `- machine: ${machine.cpu}, ${machine.cores} cores, ${gibibytes} GiB memory, ${machine.gpu ?? 'no GPU'}`,
    `- versions: ${[`node ${versions.node}`, `libtensorflow ${versions.libtensorflow ?? 'unknown'}`, ...packages].join(', ')}`,
    `- commit: ${record.commit ?? 'unknown'}`,
    `- seed: ${record.seed}`,
    `- model: ${record.model.name}, ${record.model.parameters.toLocaleString('en-US')} parameters, ${record.model.layers} layers`,
    `- run: ${record.status}, started ${record.startedAt}, finished ${record.finishedAt ?? '(not yet)'}`,
  ].join('\n');
}
