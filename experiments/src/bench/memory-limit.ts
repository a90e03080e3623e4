import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';

/** A way to hold a process to so much memory. */
export interface MemoryLimit {
  /** What the limit counts, for the reader of the result. */
  readonly how: string;
  /** Words before the command. */
  readonly prefix: readonly string[];
  /** Call it once the process has ended. */
  release(): void;
}

/**
 * The strictest limit that this machine allows: a control group of ours (all memory, page cache included), systemd's, or the kernel's
 * RLIMIT_DATA (private writable memory, resident or not; mapped files do not count).
 */
export function limitMemory(bytes: number): MemoryLimit {
  return ownGroup(bytes) ?? systemdScope(bytes) ?? dataLimit(bytes);
}

/** A group below this process's own, where version 2 groups hold memory and ours may have children. */
function ownGroup(bytes: number): MemoryLimit | undefined {
  let made: string | undefined;
  try {
    const own = /^0::(.*)$/m.exec(readFileSync('/proc/self/cgroup', 'utf8'))![1];
    const parent = join('/sys/fs/cgroup', own);
    if (!/\bmemory\b/.test(readFileSync(join(parent, 'cgroup.subtree_control'), 'utf8'))) return undefined;
    const group = join(parent, `blockwise-bench-${process.pid}`);
    mkdirSync(group);
    made = group;
    writeFileSync(join(group, 'memory.max'), String(bytes));
    if (existsSync(join(group, 'memory.swap.max'))) writeFileSync(join(group, 'memory.swap.max'), '0');
    const prefix = ['sh', '-c', `echo $$ > '${join(group, 'cgroup.procs')}' && exec "$@"`, 'sh'];
    return { how: 'cgroup v2 memory.max', prefix, release: () => rmdirSync(group) };
  } catch {
    if (made) rmdirSync(made);
    return undefined;
  }
}

function systemdScope(bytes: number): MemoryLimit | undefined {
  if (!existsSync('/run/systemd/system')) return undefined;
  const user = process.getuid!() === 0 ? [] : ['--user'];
  const prefix = ['systemd-run', ...user, '--scope', '--quiet', '-p', `MemoryMax=${bytes}`, '-p', 'MemorySwapMax=0'];
  try {
    execFileSync(prefix[0], [...prefix.slice(1), 'true'], { stdio: 'ignore', timeout: 10_000 });
    return { how: 'systemd-run --scope -p MemoryMax', prefix, release: () => {} };
  } catch {
    return undefined;
  }
}

function dataLimit(bytes: number): MemoryLimit {
  const how = 'RLIMIT_DATA (prlimit --data): private writable memory; mapped files do not count';
  return { how, prefix: ['prlimit', `--data=${bytes}`], release: () => {} };
}
