import { UserError, nearMatches } from '@blockwise/errors';
import { idleOptions } from './idle-options.ts';
import { checkOptions } from './option-checks.ts';
import { optionTable, resolveOptions, typedName } from './options.ts';
import type { Option } from './option.ts';
import type { OptionName, Options } from './options.ts';

/** What a command line asks for; `given` are the options that it names. */
export type CommandLine =
  | { kind: 'help'; text: string }
  | { kind: 'run'; options: Options; given: ReadonlySet<OptionName>; warnings: string[]; command: string };

/** The surroundings of the process that a command line depends on. */
export interface Surroundings {
  env: Readonly<Record<string, string | undefined>>;
  folder: string;
}

const table: Readonly<Record<string, Option<unknown>>> = optionTable;
const names = Object.keys(optionTable) as OptionName[];

/** Options by their names without case, `_` and `-`: `--switch_block_every`, `--switch-block-every`, `--switchBlockEvery`. */
const byName = new Map<string, OptionName>(
  names.flatMap((name) => [name, ...(table[name]!.aliases ?? [])].map((typed) => [canonical(typed), name] as const)),
);

const idleByName = new Map(Object.entries(idleOptions).map(([name, reason]) => [canonical(name), reason]));

function canonical(name: string): string {
  return name.replaceAll(/[-_]/g, '').toLowerCase();
}

/**
 * Reads a command line. Every option may be spelled with `_`, with `-` or in camel case, its value after a space or `=`;
 * a flag's value may be left out, and `--no_plot_loss` is `--plot_loss false`. The last of several values counts.
 *
 * @param words the words after the script's name
 * @param surroundings default: this process's; relative paths start from `launchFolder(surroundings)`
 * @throws UserError listing every problem of the command line at once
 */
export function parseCommandLine(
  words: readonly string[],
  surroundings: Surroundings = { env: process.env, folder: process.cwd() },
): CommandLine {
  if (words.some((word) => word === '--help' || word === '-h')) return { kind: 'help', text: helpText() };
  const { given, problems, idle } = readWords(words, surroundings);
  const options = resolveOptions(given);
  const checked = checkOptions(options, given);
  problems.push(...checked.problems);
  if (problems.length === 0) {
    const warnings = [...idle, ...checked.warnings];
    const own = new Set(Object.keys(given) as OptionName[]);
    return { kind: 'run', options, given: own, warnings, command: typedCommand(words, surroundings.env) };
  }
  const count = problems.length === 1 ? 'a problem' : `${problems.length} problems`;
  throw new UserError(
    `The command line has ${count}:\n${problems.map((problem) => `  ${problem}`).join('\n')}\n` +
      `All options: npx nx run experiments:alpaca-llama -- --help`,
  );
}

/** Turns words into values, as far as they can be understood. */
function readWords(words: readonly string[], surroundings: Surroundings) {
  const given: Partial<Record<OptionName, unknown>> = {};
  const problems: string[] = [];
  const idle: string[] = [];
  const folder = launchFolder(surroundings);
  const queue = words.filter((word) => word !== '--');
  let previous: OptionName | undefined;
  while (queue.length > 0) {
    const word = queue.shift()!;
    const [, typed, inline] = /^--([^=]+)(?:=(.*))?$/s.exec(word) ?? [];
    if (typed === undefined) {
      problems.push(
        `${JSON.stringify(word)}: found a value where an option (--name) was expected${strayHint(word, previous, surroundings)}`,
      );
      continue;
    }
    const found = findOption(typed);
    previous = found?.name;
    if (found === undefined) {
      const reason = idleByName.get(canonical(typed));
      if (reason === undefined) problems.push(unknownOption(typed));
      else idle.push(`--${typed}: without effect: ${reason}`);
      // Its value, if it has one, is no problem of its own.
      if (inline === undefined && queue.length > 0 && !queue[0]!.startsWith('-')) queue.shift();
      continue;
    }
    const value = takeValue(found, inline, queue, surroundings);
    try {
      given[found.name] = value === undefined ? bareValue(found) : found.parse(value, folder);
    } catch (error) {
      const shown = value === undefined ? 'nothing' : JSON.stringify(value);
      problems.push(`--${typedName(found.name)}: found ${shown}, ${(error as Error).message}`);
    }
  }
  return { given: given as Partial<Options>, problems, idle };
}

interface Found {
  name: OptionName;
  negated: boolean;
  parse: (word: string, folder: string) => unknown;
}

function findOption(typed: string): Found | undefined {
  const name = byName.get(canonical(typed));
  if (name !== undefined) return { name, negated: false, parse: table[name]!.kind.parse };
  const inner = /^no/i.test(typed) ? byName.get(canonical(typed).slice(2)) : undefined;
  if (inner === undefined || table[inner]!.kind.bare !== true) return undefined;
  return { name: inner, negated: true, parse: (word, folder) => !table[inner]!.kind.parse(word, folder) };
}

/** Takes an option's value from behind its `=` or from the queue; undefined where it has none. */
function takeValue(
  { name }: Found,
  inline: string | undefined,
  queue: string[],
  { env }: Surroundings,
): string | undefined {
  const { kind } = table[name]!;
  const next = queue[0];
  // A negative number is a value; `-x` is not.
  const follows = next !== undefined && (kind.bare === undefined ? !/^-(-|[a-z])/i.test(next) : !next.startsWith('-'));
  let value = inline ?? (follows ? queue.shift() : undefined);
  // nx hands values on without their quotes: the words of a path with spaces arrive one by one.
  while (kind.freeText && value !== undefined && runsUnderNx(env) && queue.length > 0 && !queue[0]!.startsWith('-')) {
    value += ` ${queue.shift()}`;
  }
  return value;
}

function bareValue({ name, negated }: Found): unknown {
  const { kind } = table[name]!;
  if (kind.bare === undefined) throw new Error(`expected a value (${kind.label})`);
  return negated ? !kind.bare : kind.bare;
}

function unknownOption(typed: string): string {
  const spelled = typed.replaceAll('-', '_').replace(/(?<=[a-z])[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  const near = nearMatches(spelled, names.map(typedName));
  const hint = near.length > 0 ? `; did you mean ${near.map((name) => `--${name}`).join(' or ')}?` : '';
  return `--${typed}: no such option${hint}`;
}

/** What a word may have been meant as that stands where an option was expected, `previous` being the option before it. */
function strayHint(word: string, previous: OptionName | undefined, { env }: Surroundings): string {
  const [, assignment, name] = /^-*(([^=]+)=.*)$/s.exec(word) ?? [];
  if (name !== undefined && findOption(name)) return `; did you mean --${assignment}?`;
  // Lists alone have commas in what help shows for their values.
  if (previous !== undefined && table[previous]!.kind.label.includes(','))
    return `; the values of --${typedName(previous)} are separated with commas, without spaces`;
  return runsUnderNx(env) ? ' (nx hands values on without their quotes)' : '';
}

function runsUnderNx(env: Surroundings['env']): boolean {
  return env['NX_TASK_TARGET_TARGET'] !== undefined;
}

/**
 * The folder that relative paths start from: where the command was typed, not where the script runs. Under nx it is the
 * root of the workspace (nx does not tell which folder it was called from), under npm the folder of the call.
 */
export function launchFolder({ env, folder }: Surroundings): string {
  return (runsUnderNx(env) ? env['NX_WORKSPACE_ROOT'] : undefined) ?? env['INIT_CWD'] ?? folder;
}

/** The command as it can be typed again. */
export function typedCommand(words: readonly string[], env: Surroundings['env']): string {
  const quoted = words.map((word) =>
    /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", String.raw`'\''`)}'`,
  );
  const [project, target] = [
    env['NX_TASK_TARGET_PROJECT'] ?? 'experiments',
    env['NX_TASK_TARGET_TARGET'] ?? 'alpaca-llama',
  ];
  return [`npx nx run ${project}:${target}`, ...quoted].join(' ');
}

/** The text of `--help`: options by topic, each with its values, meaning, unit and default. */
export function helpText(): string {
  const topics = [...new Set(names.map((name) => table[name]!.topic))];
  const sections = topics.map((topic) => {
    const listed = names.filter((name) => table[name]!.topic === topic);
    return `${topic}\n${listed.map((name) => helpOf(name)).join('\n')}`;
  });
  return `Fine-tunes a Llama on instructions: BAdam (block coordinate Adam, arXiv
2404.02827) and other methods.

  npx nx run experiments:alpaca-llama             the embedded model, offline
  npx nx run experiments:alpaca-llama -- --help   this text
  npx nx run experiments:alpaca-llama --model_name_or_path <folder or hub id> \\
      --dataset <file or name> ...

Names may be written with _, with - or in camel case, values after a space or =.
--no_plot_loss is --plot_loss false. Relative paths start where you call (nx: at
the workspace's root).

${sections.join('\n\n')}
`;
}

/** Columns of a terminal. */
const helpWidth = 80;

function helpOf(name: OptionName): string {
  const { kind, help, unit, default: general, embedded, of = {}, only, aliases } = table[name]!;
  const others = Object.entries({ ...(embedded === undefined ? {} : { 'embedded model': embedded }), ...of });
  const elsewhere = others.map(([where, value]) => `${where}: ${shownValue(value)}`).join(', ');
  const facts = [
    ...(unit ? [`Unit: ${unit}.`] : []),
    `Default: ${shownValue(general)}${elsewhere && ` (${elsewhere})`}.`,
    ...(only ? [`For ${only.join(', ')}.`] : []),
    ...(aliases ? [`Also: ${aliases.map((alias) => `--${alias}`).join(', ')}.`] : []),
  ];
  const [first, ...more] = wrap(`--${typedName(name)} ${kind.label}`, 10);
  return [`  ${first!.trimStart()}`, ...more, ...wrap(`${help} ${facts.join(' ')}`, 6)].join('\n');
}

function shownValue(value: unknown): string {
  if (value === null) return 'not set';
  if (Array.isArray(value)) return value.length === 0 ? 'none' : value.join(',');
  // 1e-5 rather than 0.00001.
  return typeof value === 'number' && value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential() : String(value);
}

/** Indented lines of a terminal's width; text breaks after spaces, and after the bars between an option's values. */
function wrap(text: string, indent: number): string[] {
  const lines = [''];
  for (const word of text.split(/(?<=[ |])/)) {
    const longer = lines.at(-1)! + word;
    if (indent + longer.trimEnd().length > helpWidth) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines.map((line) => ' '.repeat(indent) + line.trimEnd());
}
