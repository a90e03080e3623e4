import { UserError } from '@blockwise/errors';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import process from 'node:process';
import { pipeline } from 'node:stream/promises';
import { findPip, type Command } from './python.ts';
import type { LockedWheel } from './tensorflow-lock.ts';

/** Milliseconds between two looks at how far pip is. */
const pollEvery = 250;

/**
 * Downloads a wheel with pip into `folder`, so that the user's mirrors, proxies and certificates apply. The SHA-256 is checked by pip
 * (--require-hashes) and again here.
 * @param report called with the bytes downloaded so far
 * @returns the wheel's path
 * @throws UserError when there is no pip, pip fails (with its last lines), or the content is not the pinned one
 */
export async function downloadWheel(
  wheel: LockedWheel,
  version: string,
  folder: string,
  report: (doneBytes: number) => void,
): Promise<string> {
  const pip = await findPip();
  const requirements = join(folder, 'requirements.txt');
  const scratch = join(folder, 'scratch');
  const target = join(folder, 'wheel');
  await Promise.all([mkdir(scratch), mkdir(target)]);
  await writeFile(requirements, `${wheel.package}==${version} --hash=sha256:${wheel.sha256}\n`);
  const args = [...pip.args, ...pipArguments(wheel, requirements, target)];

  const timer = setInterval(
    () => void largestFile(folder).then((bytes) => report(Math.min(bytes, wheel.bytes))),
    pollEvery,
  );
  const { ending, output } = await runPip({ file: pip.file, args }, scratch).finally(() => clearInterval(timer));
  if (ending) throw pipFailure([pip.file, ...args].join(' '), ending, output, wheel);
  const files = (await readdir(target)).filter((name) => name.endsWith('.whl'));
  if (files.length !== 1) throw pipFailure([pip.file, ...args].join(' '), 'left no wheel', output, wheel);
  const path = join(target, files[0]);
  await checkWheel(path, wheel);
  report(wheel.bytes);
  return path;
}

/** Arguments of `pip download` for a locked wheel. No index is named: that is the user's configuration. */
export function pipArguments(wheel: LockedWheel, requirements: string, target: string): string[] {
  const tags = ['--platform', wheel.platformTag, '--python-version', wheel.pythonVersion, '--abi', wheel.abi];
  const quiet = ['--progress-bar', 'off', '--no-input', '--disable-pip-version-check'];
  // Our cache keeps the library; another copy in pip's would only fill the disk.
  const storage = ['--no-cache-dir', '--dest', target];
  const choice = ['--no-deps', '--only-binary=:all:', '--implementation', 'cp', ...tags];
  return ['download', ...quiet, ...storage, ...choice, '--require-hashes', '--requirement', requirements];
}

/** Runs pip to its end; `ending` is undefined on success, else how it ended. */
function runPip(command: Command, scratch: string): Promise<{ ending?: string; output: string }> {
  return new Promise((resolve, reject) => {
    // TMPDIR: pip downloads into its temporary folder, which then grows where progress is read. Nothing is installed, so a
    // configured require-virtualenv has no meaning here.
    const env = { ...process.env, TMPDIR: scratch, PIP_REQUIRE_VIRTUALENV: '0' };
    const child = spawn(command.file, command.args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
    const kill = () => void child.kill();
    process.once('exit', kill);
    let output = '';
    const keep = (chunk: Buffer) => (output = (output + chunk.toString('utf8')).slice(-8192));
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    child.once('error', reject);
    child.once('close', (code, signal) => {
      process.off('exit', kill);
      const ending = code === 0 ? undefined : signal ? `was stopped by ${signal}` : `failed with exit code ${code}`;
      resolve({ ending, output });
    });
  });
}

function pipFailure(command: string, ending: string, output: string, wheel: LockedWheel): UserError {
  if (/DO NOT MATCH THE HASHES/i.test(output)) return mismatch(wheel, `pip says:\n${lastLines(output)}`);
  return new UserError(
    `Downloading ${wheel.filename} (${megabytes(wheel.bytes)} MB) with pip did not succeed: pip ${ending}.\n` +
      `  Command: ${command}\n` +
      `  pip's last words:\n${lastLines(output)}\n` +
      '  What to do: check the network connection and `pip config list` (mirror, proxy, certificates), then run again. Without a ' +
      'network, run that command where there is one, put the wheel in a folder and set PIP_FIND_LINKS to it (and PIP_NO_INDEX=1); ' +
      'or set BLOCKWISE_TENSORFLOW to a folder that holds the unpacked library.',
  );
}

/** @throws UserError when the file is not the pinned wheel */
async function checkWheel(path: string, wheel: LockedWheel): Promise<void> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path), hash);
  const sha256 = hash.digest('hex');
  if (sha256 !== wheel.sha256) throw mismatch(wheel, `found sha256 ${sha256} (${(await stat(path)).size} bytes)`);
}

function mismatch(wheel: LockedWheel, found: string): UserError {
  return new UserError(
    `${wheel.filename}: the download is not the pinned file, and was thrown away.\n` +
      `  Expected: sha256 ${wheel.sha256} (${wheel.bytes} bytes); ${found}\n` +
      '  What to do: run again in case the transfer was damaged; if it repeats, the mirror, proxy or find-links folder of ' +
      '`pip config list` serves another file: use another one (PIP_INDEX_URL), or set BLOCKWISE_TENSORFLOW.',
  );
}

/** Bytes of the largest file under a folder: pip may write the same download to two files at once. */
async function largestFile(folder: string): Promise<number> {
  let largest = 0;
  for (const name of await readdir(folder, { recursive: true }).catch(() => [])) {
    const found = await stat(join(folder, name)).catch(() => undefined);
    if (found?.isFile()) largest = Math.max(largest, found.size);
  }
  return largest;
}

function lastLines(output: string): string {
  const lines = output.trimEnd().split('\n').slice(-12);
  return lines.map((line) => `    ${line}`).join('\n');
}

const megabytes = (bytes: number) => Math.round(bytes / 1e6);
