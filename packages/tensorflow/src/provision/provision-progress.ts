import { SingleBar } from 'cli-progress';
import process from 'node:process';

/** How far provisioning is, in bytes of the current phase; while waiting for another process both are 0. */
export interface ProvisionProgress {
  phase: 'wait' | 'download' | 'extract';
  doneBytes: number;
  totalBytes: number;
}

/** Shows progress somewhere until `stop`. */
export interface ProgressDisplay {
  show(progress: ProvisionProgress): void;
  stop(): void;
}

const captions = { wait: 'waiting for another process', download: 'downloading', extract: 'unpacking' };
const megabytes = (bytes: number) => Math.round(bytes / 1e6);

/** A progress bar on a terminal, elsewhere a plain line at every quarter. */
export function consoleProgress(title: string, stream: NodeJS.WriteStream = process.stderr): ProgressDisplay {
  return stream.isTTY ? progressBar(title, stream) : progressLines(title, stream);
}

function progressBar(title: string, stream: NodeJS.WriteStream): ProgressDisplay {
  let phase: string | undefined;
  let bar: SingleBar | undefined;
  return {
    show(progress) {
      const { doneBytes, totalBytes } = progress;
      if (phase !== progress.phase) {
        bar?.stop();
        bar = undefined;
        phase = progress.phase;
        const caption = `${title}: ${captions[progress.phase]}`;
        if (progress.phase === 'wait') return void stream.write(`${caption}\n`);
        bar = new SingleBar({
          stream,
          format: `${caption} {bar} {value}/{total} MB, {eta_formatted} left`,
          hideCursor: true,
        });
        bar.start(megabytes(totalBytes), megabytes(doneBytes));
      }
      bar?.update(megabytes(doneBytes));
    },
    stop: () => bar?.stop(),
  };
}

function progressLines(title: string, stream: NodeJS.WriteStream): ProgressDisplay {
  let last = '';
  return {
    show({ phase, doneBytes, totalBytes }) {
      const quarter = totalBytes ? Math.floor((4 * doneBytes) / totalBytes) : 0;
      if (last === `${phase} ${quarter}`) return;
      last = `${phase} ${quarter}`;
      const amount = totalBytes ? ` ${megabytes(doneBytes)} of ${megabytes(totalBytes)} MB` : '';
      stream.write(`${title}: ${captions[phase]}${amount}\n`);
    },
    stop: () => undefined,
  };
}
