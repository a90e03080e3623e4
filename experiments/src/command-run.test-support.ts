import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { PassThrough } from 'node:stream';
import { fileURLToPath } from 'node:url';
import type { RunRecord } from '@blockwise/reporting';
import { afterAll } from 'vitest';
import { parseCommandLine } from './command-line.ts';
import { fineTune } from './fine-tune.ts';
import { runCommand } from './run-command.ts';

/** For tests only: the command alpaca-llama in this process or in one of its own, and what it leaves behind. */

const folder = mkdtempSync(join(tmpdir(), 'alpaca-llama-test-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A path in a folder that is deleted after the test file. */
export const scratch = (...names: string[]): string => join(folder, ...names);

/** Seconds rather than minutes on the embedded model. */
export const small = words(
  '--max_steps 4 --cutoff_len 48 --max_samples 40 --val_size 8 --per_device_train_batch_size 2',
  '--per_device_eval_batch_size 8 --report_to jsonl --no_plot_loss --logging_steps 1',
);

/** Splits at spaces. */
export function words(...texts: string[]): string[] {
  return texts.flatMap((text) => text.split(' '));
}

/** A stream that is no terminal and keeps what is written; `onWrite` is told at once. */
export function capture(onWrite: (text: string) => void = () => {}) {
  let text = '';
  const stream = Object.assign(new PassThrough(), { isTTY: false }) as unknown as NodeJS.WriteStream;
  stream.write = ((chunk: string) => {
    text += chunk;
    onWrite(chunk);
    return true;
  }) as typeof stream.write;
  return { stream, text: () => text };
}

/** The command in this process. */
export async function command(...typed: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const [stdout, stderr] = [capture(), capture()];
  const code = await runCommand(typed, { stdout: stdout.stream, stderr: stderr.stream });
  return { code, stdout: stdout.text(), stderr: stderr.text() };
}

/** The recipe in this process, interrupted in step `at` as Ctrl-C does. Needs --logging_steps 1. */
export async function interruptedIn(at: number, ...typed: string[]) {
  const commandLine = parseCommandLine(typed);
  if (commandLine.kind === 'help') throw new Error('help asked for');
  const interrupt = new AbortController();
  const { stream } = capture((text) => {
    if (text.startsWith(`step ${at}/`)) interrupt.abort();
  });
  return fineTune(commandLine.options, commandLine.command, { stream, signal: interrupt.signal });
}

/** The command in a process of its own. */
export function startCommand(...typed: string[]) {
  const child: ChildProcess = spawn(
    process.execPath,
    ['--import', 'tsx', '--conditions=blockwise-source', 'src/alpaca-llama.ts', ...typed],
    { cwd: fileURLToPath(new URL('..', import.meta.url)), stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let [stdout, stderr] = ['', ''];
  child.stdout!.on('data', (data: Buffer) => (stdout += data.toString()));
  child.stderr!.on('data', (data: Buffer) => (stderr += data.toString()));
  const ended = new Promise<{ code: number | null; signal: string | null; stdout: string; stderr: string }>((resolve) =>
    child.on('close', (code, signal) => resolve({ code, signal, stdout, stderr })),
  );
  return { child, ended };
}

/** Waits until a run's log holds so many lines. */
export async function logReaches(outputDir: string, lines: number): Promise<void> {
  const path = join(outputDir, 'log.jsonl');
  for (;;) {
    if (existsSync(path) && readFileSync(path, 'utf8').split('\n').length > lines) return;
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

export function readRecord(outputDir: string): RunRecord {
  return JSON.parse(readFileSync(join(outputDir, 'run.json'), 'utf8')) as RunRecord;
}

/** What differs between equal runs: durations, moments, memory, and where the run was. */
const varying = /^(seconds|startedAt|finishedAt|timing|memory|command|outputDir|resumeFromCheckpoint)$/;

/** Every file of a run by its path, JSON without what varies; memory.md and the event files, which hold times, are left out. */
export function filesOf(outputDir: string, only = /./): Map<string, unknown> {
  const all = readdirSync(outputDir, { recursive: true, encoding: 'utf8' }).sort();
  const paths = all.map((name) => join(outputDir, name)).filter((path) => statSync(path).isFile());
  const kept = paths.filter((path) => !/memory\.md$|tfevents/.test(path) && only.test(relative(outputDir, path)));
  return new Map(kept.map((path) => [relative(outputDir, path), contents(path)]));
}

function contents(path: string): unknown {
  const bytes = readFileSync(path);
  const withoutTimes = (text: string): unknown =>
    JSON.parse(text, (key, value: unknown) => (varying.test(key) ? undefined : value));
  if (/(run|trainer_state)\.json$/.test(path)) return withoutTimes(bytes.toString());
  if (path.endsWith('.jsonl')) return bytes.toString().trimEnd().split('\n').map(withoutTimes);
  return bytes.toString('base64');
}
