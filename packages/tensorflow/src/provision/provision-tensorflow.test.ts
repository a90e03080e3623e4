import { execFile, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { crc32, deflateRawSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { fillCache, isCached } from './library-cache.ts';
import { provisionFromLock, provisionTensorFlow } from './provision-tensorflow.ts';
import type { ProvisionProgress } from './provision-progress.ts';
import { hostPlatform, libraryNames, type LockedWheel, type TensorFlowLock } from './tensorflow-lock.ts';

const { framework, cc } = libraryNames();
// Deflate shrinks the first and not the second, whose length is no multiple of anything.
const contents = { [framework]: Buffer.alloc(300_000, 'framework'), [cc]: pseudoRandomBytes(1_000_003) };

let folder: string;
let wheelPath: string;
let lock: TensorFlowLock;
let wheel: LockedWheel;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'blockwise-provision-'));
  const filename = 'tensorflow_cpu-2.21.0-cp311-cp311-manylinux_2_27_x86_64.whl';
  wheelPath = join(folder, filename);
  const bytes = zipFile({
    'tensorflow/include/libtensorflow_cc.so.2': Buffer.from('a decoy'),
    [`tensorflow/${framework}`]: contents[framework],
    [`tensorflow/${cc}`]: contents[cc],
    'tensorflow_cpu-2.21.0.dist-info/METADATA': Buffer.from(
      'Metadata-Version: 2.1\nName: tensorflow-cpu\nVersion: 2.21.0\n',
    ),
    'tensorflow_cpu-2.21.0.dist-info/WHEEL': Buffer.from(
      'Wheel-Version: 1.0\nTag: cp311-cp311-manylinux_2_27_x86_64\n',
    ),
    'tensorflow_cpu-2.21.0.dist-info/RECORD': Buffer.from(''),
  });
  writeFileSync(wheelPath, bytes);
  const tags = { platformTag: 'manylinux_2_27_x86_64', pythonVersion: '3.11', abi: 'cp311' };
  const libraries = { [framework]: locked(contents[framework]), [cc]: locked(contents[cc]) };
  wheel = { package: 'tensorflow-cpu', filename, ...tags, ...locked(bytes), libraries };
  const cuda = { ...wheel, package: 'tensorflow' };
  lock = { version: '2.21.0', wheels: { [hostPlatform()]: { cpu: wheel, cuda } } };
  vi.stubEnv('BLOCKWISE_TENSORFLOW', '');
  vi.stubEnv('BLOCKWISE_CACHE', join(folder, 'cache'));
  vi.stubEnv('BLOCKWISE_PYTHON', fakePython());
  vi.stubEnv('FAKE_WHEEL', wheelPath);
  vi.stubEnv('FAKE_LOG', join(folder, 'pip.log'));
});

afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

const quiet = { onProgress: () => undefined };
const cached = () => join(folder, 'cache', 'tensorflow', `2.21.0-cpu-${hostPlatform()}`);
const entries = () =>
  existsSync(join(folder, 'cache', 'tensorflow')) ? readdirSync(join(folder, 'cache', 'tensorflow')) : [];
const downloads = () =>
  existsSync(join(folder, 'pip.log')) ? readFileSync(join(folder, 'pip.log'), 'utf8').length : 0;
const failure = (call: Promise<unknown>) =>
  call.then(
    () => undefined,
    (error: Error) => error,
  );

function expectCached() {
  expect(entries()).toEqual([basename(cached())]);
  expect(readdirSync(cached()).sort()).toEqual(['complete.json', cc, framework].sort());
  for (const name of [framework, cc]) expect(readFileSync(join(cached(), name)).equals(contents[name])).toBe(true);
}

describe('fetching', () => {
  test('keeps the two shared objects of the wheel and nothing else, then serves them from the cache', async () => {
    const progress: ProvisionProgress[] = [];
    const library = await provisionFromLock(lock, { onProgress: (now) => progress.push({ ...now }) });
    expect(library).toEqual({
      frameworkPath: join(cached(), framework),
      ccPath: join(cached(), cc),
      version: '2.21.0',
      variant: 'cpu',
      source: 'downloaded',
    });
    expectCached();
    expect(progress.filter(({ phase }) => phase === 'download').at(-1)?.doneBytes).toBe(wheel.bytes);
    expect(progress.at(-1)).toEqual({ phase: 'extract', doneBytes: 1_300_003, totalBytes: 1_300_003 });
    expect(await provisionFromLock(lock, quiet)).toEqual({ ...library, source: 'cache' });
    expect(downloads()).toBe(1);
  });

  test('shows how far pip is while it downloads into its temporary folder', async () => {
    vi.stubEnv('FAKE_PIP', 'slow');
    const halves = new Set<number>();
    await provisionFromLock(lock, {
      onProgress: ({ phase, doneBytes }) => phase === 'download' && halves.add(doneBytes),
    });
    expect(halves).toContain(Math.floor(wheel.bytes / 2));
  });

  test('calls at once in one process share one download', async () => {
    const libraries = await Promise.all([1, 2, 3].map(() => provisionFromLock(lock, quiet)));
    expect(new Set(libraries.map(({ ccPath }) => ccPath)).size).toBe(1);
    expect(downloads()).toBe(1);
    expectCached();
  });

  test('two processes at once end with one whole folder, and the later one waits instead of downloading', async () => {
    vi.stubEnv('FAKE_PIP', 'slow');
    const first = provisionElsewhere();
    await vi.waitFor(() => expect(downloads()).toBe(1), 20_000);
    const phases = new Set<string>();
    const second = await provisionFromLock(lock, { onProgress: ({ phase }) => phases.add(phase) });
    expect(second.source).toBe('cache');
    expect([...phases]).toEqual(['wait']);
    expect((await first).source).toBe('downloaded');
    expect(downloads()).toBe(1);
    expectCached();
  });

  test('two that fill the folder in the same instant do not mix: it appears whole, once', async () => {
    const fill = async (_staging: string, libraries: string) => {
      for (const name of [framework, cc]) writeFileSync(join(libraries, name), contents[name]);
      await sleep(20);
    };
    mkdirSync(join(folder, 'cache', 'tensorflow'), { recursive: true });
    for (const before of ['nothing', 'a damaged folder']) {
      if (before === 'a damaged folder') rmSync(join(cached(), 'complete.json'));
      await Promise.all([1, 2, 3, 4].map(() => fillCache(cached(), wheel, fill)));
      expectCached();
    }
  });

  test('a process killed in the middle leaves nothing that is used, and the next one clears it away', async () => {
    vi.stubEnv('FAKE_PIP', 'hang');
    const child = spawn(process.execPath, elsewhere.args, {
      env: elsewhere.env(),
      cwd: elsewhere.cwd,
      stdio: 'ignore',
    });
    await vi.waitFor(() => expect(downloads()).toBe(1), 20_000);
    child.kill('SIGKILL');
    await new Promise((resolve) => child.once('close', resolve));
    process.kill(Number(readFileSync(join(folder, 'pip.pid'), 'utf8')), 'SIGKILL');
    expect(entries()).toEqual([expect.stringContaining('.partial-')]);
    vi.stubEnv('FAKE_PIP', '');
    expect((await provisionFromLock(lock, quiet)).source).toBe('downloaded');
    expectCached();
  });

  test('a partial folder of a process that is gone is removed even if its host is another', async () => {
    const stale = `${cached()}.partial-elsewhere-1-0123abcd`;
    const gone = `${cached()}.partial-${hostname()}-4194999-0123abcd`;
    for (const path of [stale, gone]) mkdirSync(path, { recursive: true });
    writeFileSync(join(stale, 'half.whl'), 'half');
    const longAgo = new Date(Date.now() - 120_000);
    utimesSync(stale, longAgo, longAgo);
    await provisionFromLock(lock, quiet);
    expectCached();
  });

  test.each([
    ['a shared object is cut short', () => truncateSync(join(cached(), cc), 1000)],
    ['the manifest is missing', () => rmSync(join(cached(), 'complete.json'))],
    ['the manifest is of another wheel', () => writeFileSync(join(cached(), 'complete.json'), '{"wheel":"0"}')],
  ])('a cached folder is replaced when %s', async (_case, damage) => {
    await provisionFromLock(lock, quiet);
    damage();
    expect(await isCached(cached(), wheel)).toBe(false);
    expect((await provisionFromLock(lock, quiet)).source).toBe('downloaded');
    expectCached();
  });
});

describe('an installed TensorFlow', () => {
  function install(pipPackage: string, version: string) {
    const site = join(folder, pipPackage, 'tensorflow');
    mkdirSync(site, { recursive: true });
    for (const name of [framework, cc]) writeFileSync(join(site, name), '');
    vi.stubEnv('FAKE_INSTALLED', JSON.stringify([{ package: pipPackage, version, folder: site }]));
    return site;
  }

  test('of the pinned version is used where it lies', async () => {
    const site = install('tensorflow-cpu', '2.21.0');
    const paths = { frameworkPath: join(site, framework), ccPath: join(site, cc) };
    expect(await provisionFromLock(lock, quiet)).toEqual({
      ...paths,
      version: '2.21.0',
      variant: 'cpu',
      source: 'installed',
    });
    expect(entries()).toEqual([]);
  });

  test('with CUDA serves a request for cpu, and says what it is', async () => {
    install('tensorflow', '2.21.0');
    expect(await provisionFromLock(lock, quiet)).toMatchObject({ variant: 'cuda', source: 'installed' });
  });

  test('without CUDA does not serve a request for cuda', async () => {
    install('tensorflow-cpu', '2.21.0');
    expect(await provisionFromLock(lock, { variant: 'cuda', ...quiet })).toMatchObject({
      variant: 'cuda',
      source: 'downloaded',
    });
  });

  test('of another version is passed over', async () => {
    install('tensorflow-cpu', '2.21.1');
    expect((await provisionFromLock(lock, quiet)).source).toBe('downloaded');
  });

  test('that lacks a shared object is passed over', async () => {
    rmSync(join(install('tensorflow-cpu', '2.21.0'), cc));
    expect((await provisionFromLock(lock, quiet)).source).toBe('downloaded');
  });
});

describe('a configured folder', () => {
  test('comes before everything else', async () => {
    for (const name of [framework, cc]) writeFileSync(join(folder, name), '');
    vi.stubEnv('BLOCKWISE_TENSORFLOW', folder);
    const paths = { frameworkPath: join(folder, framework), ccPath: join(folder, cc) };
    expect(await provisionTensorFlow()).toEqual({ ...paths, version: undefined, variant: 'cpu', source: 'configured' });
  });

  test.each([
    ['does not exist', () => join(folder, 'nowhere'), 'nowhere: it does not exist.'],
    ['is a file', () => wheelPath, '.whl: it is a file, expected a folder.'],
    ['lacks both files', () => folder, `it lacks ${framework} and ${cc}.`],
  ])('that %s is refused with what was expected', async (_case, path, problem) => {
    vi.stubEnv('BLOCKWISE_TENSORFLOW', path());
    const error = await failure(provisionTensorFlow());
    expect(error).toMatchObject({ name: 'UserError' });
    expect(error?.message).toContain('BLOCKWISE_TENSORFLOW: cannot use ');
    expect(error?.message).toContain(problem);
    expect(error?.message).toContain(`set it to a folder that holds ${framework} and ${cc} of TensorFlow 2.21.0`);
  });

  test('one level too high is told the right one', async () => {
    mkdirSync(join(folder, 'tensorflow'));
    for (const name of [framework, cc]) writeFileSync(join(folder, 'tensorflow', name), '');
    vi.stubEnv('BLOCKWISE_TENSORFLOW', folder);
    const error = await failure(provisionTensorFlow());
    expect(error?.message).toContain(`What to do: set it to ${join(folder, 'tensorflow')}, which holds the library.`);
  });
});

describe('what goes wrong is said with its remedy, and leaves nothing behind', () => {
  async function expectRefusal(...parts: string[]) {
    const error = await failure(provisionFromLock(lock, quiet));
    expect(error).toMatchObject({ name: 'UserError' });
    for (const part of [...parts, 'What to do: ']) expect(error?.message).toContain(part);
    expect(entries()).toEqual([]);
  }

  test('no pip', async () => {
    vi.stubEnv('BLOCKWISE_PYTHON', join(folder, 'no-python'));
    await expectRefusal(
      'pip is needed once',
      `Tried: ${join(folder, 'no-python')} -m pip.`,
      'install Python 3 with pip',
    );
  });

  test('no pip anywhere on the PATH', async () => {
    vi.stubEnv('BLOCKWISE_PYTHON', '');
    vi.stubEnv('PATH', join(folder, 'empty'));
    await expectRefusal('Tried: python3 -m pip, python -m pip, pip3, pip.');
  });

  test('pip fails: its last words are shown', async () => {
    vi.stubEnv('FAKE_PIP', 'offline');
    await expectRefusal(
      `Downloading ${wheel.filename} (1 MB) with pip did not succeed: pip failed with exit code 1.`,
      'ERROR: No matching distribution found for tensorflow-cpu==2.21.0',
      'PIP_FIND_LINKS',
      'pip config list',
    );
  });

  test('pip is stopped', async () => {
    vi.stubEnv('FAKE_PIP', 'killed');
    await expectRefusal('pip was stopped by SIGTERM');
  });

  test('pip leaves no wheel', async () => {
    vi.stubEnv('FAKE_PIP', 'nothing');
    await expectRefusal('pip left no wheel');
  });

  test('pip lets another file through: our own check refuses it', async () => {
    writeFileSync(wheelPath, 'not the wheel');
    await expectRefusal(
      'the download is not the pinned file, and was thrown away',
      `Expected: sha256 ${wheel.sha256} (${wheel.bytes} bytes); found sha256 ${locked(Buffer.from('not the wheel')).sha256} (13 bytes)`,
      'PIP_INDEX_URL',
    );
  });

  test('a shared object in the wheel is not the pinned one', async () => {
    wheel.libraries[cc] = { ...wheel.libraries[cc], sha256: '0'.repeat(64) };
    await expectRefusal(`tensorflow/${cc}: its sha256 is ${locked(contents[cc]).sha256}, expected ${'0'.repeat(64)}`);
  });

  test('a shared object in the wheel has another size', async () => {
    wheel.libraries[cc] = { ...wheel.libraries[cc], bytes: 5 };
    await expectRefusal(`tensorflow/${cc}: it has 1000003 bytes, expected 5`);
  });

  test('the wheel lacks a shared object', async () => {
    wheel.libraries['libother.so.2'] = locked(Buffer.from(''));
    await expectRefusal('it lacks tensorflow/libother.so.2');
  });

  test('the disk is too small', async () => {
    wheel.bytes = 1e15;
    await expectRefusal(
      'Not enough disk space',
      '2000000.07 GB are needed',
      'set BLOCKWISE_CACHE to a folder on a larger disk',
    );
    expect(downloads()).toBe(0);
  });

  test('the cache cannot be written', async () => {
    writeFileSync(join(folder, 'cache'), 'a file in the way');
    const error = await failure(provisionFromLock(lock, quiet));
    expect(error).toMatchObject({ name: 'UserError' });
    expect(error?.message).toContain(`The cache folder ${join(folder, 'cache', 'tensorflow')} cannot be written: `);
    expect(error?.message).toContain('set BLOCKWISE_CACHE to a folder that you may write to');
  });

  test('no wheel for this platform', async () => {
    lock = { version: '2.21.0', wheels: { 'vax-vms': { cpu: wheel } } };
    await expectRefusal(`has no ready-made cpu library for ${hostPlatform()}`, 'Supported: vax-vms (cpu).');
  });
});

// The truth about pip's options and hash check is pip itself; a folder stands in for the network.
const realPip = spawnSync('python3', ['-m', 'pip', '--version']).status === 0;
if (!realPip) console.log('skipped: python3 -m pip is not installed here');
describe.skipIf(!realPip)('the real pip', () => {
  beforeEach(() => {
    vi.stubEnv('BLOCKWISE_PYTHON', 'python3');
    vi.stubEnv('PIP_NO_INDEX', '1');
    vi.stubEnv('PIP_FIND_LINKS', folder);
    // A version that no machine has installed.
    wheel.filename = wheel.filename.replace('2.21.0', '2.21.0.dev1');
    lock.version = '2.21.0.dev1';
  });

  function publish(distInfo: Record<string, string>) {
    const files = Object.entries(distInfo).map(([name, text]) => [
      `tensorflow_cpu-2.21.0.dev1.dist-info/${name}`,
      Buffer.from(text),
    ]);
    const libraries = [framework, cc].map((name) => [`tensorflow/${name}`, contents[name]]);
    const bytes = zipFile(Object.fromEntries([...libraries, ...files]) as Record<string, Buffer>);
    writeFileSync(join(folder, wheel.filename), bytes);
    return bytes;
  }
  const distInfo = {
    METADATA: 'Metadata-Version: 2.1\nName: tensorflow-cpu\nVersion: 2.21.0.dev1\n',
    WHEEL: 'Wheel-Version: 1.0\nTag: cp311-cp311-manylinux_2_27_x86_64\n',
    RECORD: '',
  };

  test('downloads the wheel of another platform and Python by the pinned tags', async () => {
    Object.assign(wheel, locked(publish(distInfo)));
    const library = await provisionFromLock(lock, quiet);
    expect(library.source).toBe('downloaded');
    expect(readFileSync(library.ccPath).equals(contents[cc])).toBe(true);
  });

  test('refuses a wheel with another hash, and the error names both', async () => {
    const { sha256 } = locked(publish(distInfo));
    const error = await failure(provisionFromLock(lock, quiet));
    expect(error?.message).toContain('the download is not the pinned file');
    expect(error?.message).toContain(`Expected: sha256 ${wheel.sha256}`);
    expect(error?.message).toContain(sha256);
    expect(entries()).toEqual([]);
  });
});

/** Provisioning in a process of its own, under this test's environment. */
const elsewhere = {
  cwd: import.meta.dirname,
  args: [
    ...['--import', 'tsx', '--conditions=blockwise-source', '--input-type=module', '-e'],
    `const { provisionFromLock } = await import(process.env.TEST_MODULE);
     console.log(JSON.stringify(await provisionFromLock(JSON.parse(process.env.TEST_LOCK), { onProgress() {} })));`,
  ],
  env: () => ({
    ...process.env,
    TEST_MODULE: new URL('./provision-tensorflow.ts', import.meta.url).href,
    TEST_LOCK: JSON.stringify(lock),
  }),
};

async function provisionElsewhere(): Promise<{ source: string }> {
  const options = { env: elsewhere.env(), cwd: elsewhere.cwd };
  return JSON.parse((await promisify(execFile)(process.execPath, elsewhere.args, options)).stdout) as {
    source: string;
  };
}

/** An interpreter that plays Python and pip as FAKE_PIP, FAKE_WHEEL and FAKE_INSTALLED say. */
function fakePython(): string {
  const path = join(folder, 'python');
  const script = `#!/bin/sh
[ "$1" = -c ] && { printf '%s\\n' "\${FAKE_INSTALLED:-[]}"; exit; }
while [ $# -gt 0 ]; do
  case $1 in --version) echo pip 99; exit ;; --dest) dest=$2 ;; esac
  shift
done
echo $$ > "$(dirname "$FAKE_LOG")/pip.pid"
half() { head -c $(($(wc -c < "$FAKE_WHEEL") / 2)) "$FAKE_WHEEL" > "$TMPDIR/growing"; }
finish() { cp "$FAKE_WHEEL" "$dest/"; }
case $FAKE_PIP in
  slow) half; printf . >> "$FAKE_LOG"; sleep 1; finish ;;
  hang) half; printf . >> "$FAKE_LOG"; exec sleep 600 ;;
  offline) echo 'ERROR: No matching distribution found for tensorflow-cpu==2.21.0' >&2; exit 1 ;;
  killed) kill $$ ;;
  nothing) ;;
  *) printf . >> "$FAKE_LOG"; finish ;;
esac
`;
  writeFileSync(path, script, { mode: 0o755 });
  return path;
}

function locked(bytes: Buffer): { sha256: string; bytes: number } {
  return { sha256: createHash('sha256').update(bytes).digest('hex'), bytes: bytes.length };
}

function pseudoRandomBytes(length: number): Buffer {
  let state = 1;
  return Buffer.from(
    Uint8Array.from({ length }, () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) >>> 24),
  );
}

/** A zip file of deflated entries (APPNOTE.TXT 6.3: local headers, central directory, end record). */
function zipFile(files: Record<string, Buffer>): Buffer {
  const locals: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const [name, content] of Object.entries(files)) {
    const packed = deflateRawSync(content);
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0); // version needed
    common.writeUInt16LE(8, 4); // deflate
    common.writeUInt16LE(0x21, 8); // 1980-01-01
    common.writeUInt32LE(crc32(content), 10);
    common.writeUInt32LE(packed.length, 14);
    common.writeUInt32LE(content.length, 18);
    common.writeUInt16LE(name.length, 22);
    const central = Buffer.alloc(14);
    central.writeUInt32LE(offset, 10);
    locals.push(Buffer.from('PK\x03\x04'), common, Buffer.from(name), packed);
    directory.push(Buffer.from('PK\x01\x02\x14\x00'), common, central, Buffer.from(name));
    offset += 30 + name.length + packed.length;
  }
  const end = Buffer.alloc(22);
  end.write('PK\x05\x06', 'latin1');
  end.writeUInt16LE(Object.keys(files).length, 8);
  end.writeUInt16LE(Object.keys(files).length, 10);
  end.writeUInt32LE(Buffer.concat(directory).length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...locals, ...directory, end]);
}
