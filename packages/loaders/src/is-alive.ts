import process from 'node:process';

/** Whether a process of this number runs, ours or another user's: for locks that name their owner. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
