import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { benchFolder, reportMark, writeJob, type Ready, type Round, type TrainJob } from './train-job.ts';

/** A process that loaded and warmed up, and makes one round whenever it is asked. */
export interface Worker {
  readonly name: string;
  readonly ready: Ready;
  round(): Promise<Round>;
  /** Lets the process end and waits for it. */
  end(): Promise<void>;
  /** Bytes it has held at most so far (VmHWM), also in the middle of a round. */
  peakResident(): number;
  /** Ends it at once, in the middle of a round. */
  kill(): void;
}

/** The words that run one of our own scripts. */
function scriptCommand(script: string, ...words: string[]): string[] {
  const [path, lean] = [script, '../lean-node.ts'].map((file) => fileURLToPath(new URL(file, import.meta.url)));
  return [process.execPath, '--import', 'tsx', '--conditions=blockwise-source', '--import', lean, path, ...words];
}

/** The same job from a checkpoint with its fresh weights, written by a process of its own and removed when this one exits. */
export function fromCheckpoint(job: TrainJob): TrainJob & { weights: { folder: string } } {
  const folder = mkdtempSync(join(benchFolder(), 'weights-'));
  const [program, ...words] = scriptCommand('save-fresh.ts', writeJob(job), folder);
  execFileSync(program, words, { stdio: ['ignore', 2, 2] });
  return { ...job, weights: { folder } };
}

/** Starts our side of a job; `prefix` are words before the command, such as a limit's. */
export function startTraining(name: string, job: TrainJob, prefix: readonly string[] = []): Promise<Worker> {
  return startWorker(name, [...prefix, ...scriptCommand('train-worker.ts', writeJob(job))]);
}

/** Starts PyTorch's side of a job, in the environment that its users have (without what experiments/.env adds to ours), or with large pages. */
export function startPeer(name: string, command: readonly string[], { largePages = false } = {}): Promise<Worker> {
  return startWorker(name, command, { ...process.env, GLIBC_TUNABLES: largePages ? largePagesOf : undefined });
}

const largePagesOf = 'glibc.malloc.hugetlb=1';
const { GLIBC_TUNABLES } = process.env;

/** Notes of benchmarks with peers: what surrounds both sides, and what their peaks count. */
export const environments = `Each side in the environment that its users have: ours with ${
  GLIBC_TUNABLES
    ? `GLIBC_TUNABLES=${GLIBC_TUNABLES} (experiments/.env: large pages)`
    : 'nothing of experiments/.env, which Nx reads'
}, PyTorch as installed.`;
export const cudaPages =
  "PyTorch's are those of its build for CPUs: of the CUDA libraries that pip installs with it, the pages that loading touched (170 MB) are given back before training.";

/**
 * Starts a worker and waits until it is warm. Its chatter goes to standard error.
 * @throws Error with the end of its chatter where it ends before it has reported
 */
export async function startWorker(
  name: string,
  [program, ...words]: readonly string[],
  env: NodeJS.ProcessEnv = process.env,
): Promise<Worker> {
  const cwd = fileURLToPath(new URL('../..', import.meta.url));
  const child = spawn(program, words, { cwd, env, stdio: ['pipe', 'pipe', 'pipe'] });
  const waiting: { resolve: (line: string) => void; reject: (error: Error) => void }[] = [];
  let chatter = '';
  const note = (line: string) => {
    chatter = `${chatter}${line}\n`.slice(-4000);
    process.stderr.write(`  [${name}] ${line}\n`);
  };
  createInterface({ input: child.stderr }).on('line', note);
  createInterface({ input: child.stdout }).on('line', (line) => {
    if (line.startsWith(reportMark)) waiting.shift()?.resolve(line.slice(reportMark.length));
    else note(line);
  });
  child.stdin.on('error', () => {}); // a worker that died is reported by its exit
  const ended = new Promise<void>((resolve, reject) => {
    const fail = (how: string) => {
      const error = new Error(`the worker ${name} ended with ${how}:\n${chatter}`);
      waiting.forEach(({ reject }) => reject(error));
      reject(error);
    };
    child.on('error', (error) => fail(error.message));
    child.on('close', (code, signal) =>
      code === 0 && waiting.length === 0 ? resolve() : fail(signal ?? `code ${code}`),
    );
  });
  ended.catch(() => {}); // reported through whoever waits
  const next = async <T>(): Promise<T> => {
    const line = new Promise<string>((resolve, reject) => waiting.push({ resolve, reject }));
    await Promise.race([line, ended]);
    return JSON.parse(await line) as T;
  };

  const ready = await next<Ready>();
  return {
    name,
    ready,
    round: () => {
      const round = next<Round>();
      child.stdin.write('\n');
      return round;
    },
    end: () => {
      child.stdin.end();
      return ended;
    },
    peakResident: () =>
      1024 * Number(/^VmHWM:\s+(\d+) kB/m.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))![1]),
    kill: () => void child.kill('SIGKILL'),
  };
}
