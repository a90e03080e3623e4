import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import process from 'node:process';

/** Memory of this process, in bytes. Kinds the system does not tell apart are undefined. */
export interface MemoryReading {
  /** Resident now. */
  resident: number;
  /** Resident peak since the process began or resetPeakMemory() (VmHWM). */
  peakResident: number;
  /** Resident and private: what the program allocated (RssAnon). */
  anonymous?: number;
  /** Resident and backed by files: mapped weights and libraries, which the system may drop (RssFile). */
  fileBacked?: number;
}

/** Reads this process's memory; from /proc on Linux, from getrusage elsewhere. */
export function readMemory(): MemoryReading {
  if (process.platform !== 'linux') {
    const { maxRSS } = process.resourceUsage();
    return { resident: process.memoryUsage.rss(), peakResident: maxRSS * 1024 };
  }
  const status = readFileSync('/proc/self/status', 'latin1');
  const kilobytes = (field: string) => 1024 * Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(status)?.[1] ?? 0);
  return {
    resident: kilobytes('VmRSS'),
    peakResident: kilobytes('VmHWM'),
    anonymous: kilobytes('RssAnon'),
    fileBacked: kilobytes('RssFile'),
  };
}

/** Starts a new peak from here on, where the system allows it (Linux). Returns whether it did. */
export function resetPeakMemory(): boolean {
  try {
    writeFileSync('/proc/self/clear_refs', '5');
    return true;
  } catch {
    return false;
  }
}

/** Peaks of each kind, seen by sampling. */
export interface MemoryPeaks {
  peakResident: number;
  peakAnonymous?: number;
  peakFileBacked?: number;
}

/**
 * Samples memory in the background, because the kernel keeps a peak of the resident set only. Long operations run on other threads,
 * so samples are taken during them too.
 */
export class MemoryMeter {
  private peaks: MemoryPeaks;
  private readonly timer: NodeJS.Timeout;

  constructor(everyMilliseconds = 20) {
    const { peakResident, anonymous, fileBacked } = readMemory();
    this.peaks = { peakResident, peakAnonymous: anonymous, peakFileBacked: fileBacked };
    this.timer = setInterval(() => this.sample(), everyMilliseconds);
    this.timer.unref();
  }

  /** Takes a sample now and returns the peaks so far. */
  sample(): MemoryPeaks {
    const now = readMemory();
    const most = (a?: number, b?: number) => (b === undefined ? a : Math.max(a ?? 0, b));
    this.peaks = {
      peakResident: Math.max(this.peaks.peakResident, now.peakResident),
      peakAnonymous: most(this.peaks.peakAnonymous, now.anonymous),
      peakFileBacked: most(this.peaks.peakFileBacked, now.fileBacked),
    };
    return this.peaks;
  }

  stop(): MemoryPeaks {
    clearInterval(this.timer);
    return this.sample();
  }
}

/** Bytes of GPU memory that this process holds, by nvidia-smi; undefined where there is no GPU or the driver does not say. */
export function readGpuMemory(): number | undefined {
  try {
    const query = ['--query-compute-apps=pid,used_memory', '--format=csv,noheader,nounits'];
    const lines = execFileSync('nvidia-smi', query, { encoding: 'utf8', stdio: 'pipe', timeout: 10_000 }).split('\n');
    const own = lines.map((line) => line.split(',').map(Number)).filter(([pid]) => pid === process.pid);
    return own.length > 0 ? own.reduce((sum, [, mebibytes]) => sum + mebibytes * 2 ** 20, 0) : undefined;
  } catch {
    return undefined;
  }
}
