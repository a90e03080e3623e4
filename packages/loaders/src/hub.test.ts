import { createHash } from 'node:crypto';
import { lstat, mkdir, mkdtemp, readdir, readFile, readlink, rm, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { resolveAdapterPath, resolveDataset, resolveModelPath } from './hub.ts';
import type { DownloadProgress } from './hub-snapshot.ts';

/** A stand-in for the hub: the endpoints, headers and checksums of the real one, and the faults that the tests ask for. */
interface FakeHub {
  url: string;
  repos: Map<string, Map<string, Buffer>>;
  /** `METHOD path range` of every request. */
  requests: string[];
  tokens: Set<string | undefined>;
  /** Cuts the connection after this many bytes of the named file, each time it is asked for more. */
  cutAfter: Map<string, number>;
  corrupt: Set<string>;
  status: Map<string, number>;
  /** What it calls the newest commit. */
  commit: string;
  close: () => Promise<void>;
}

const commit = 'c0ffee0000000000000000000000000000000000';
const gitSha1 = (content: Buffer) =>
  createHash('sha1').update(`blob ${content.length}\0`).update(content).digest('hex');
const sha256 = (content: Buffer) => createHash('sha256').update(content).digest('hex');
const isLfs = (path: string) => /\.(safetensors|parquet)$/.test(path);

async function startFakeHub(): Promise<FakeHub> {
  const hub = { repos: new Map(), requests: [], tokens: new Set(), cutAfter: new Map() } as unknown as FakeHub;
  hub.corrupt = new Set();
  hub.status = new Map();
  hub.commit = commit;
  const server: Server = createServer((request, response) => {
    let body = '';
    request.on('data', (chunk) => (body += chunk));
    request.on('end', () => answer(hub, request, response, body));
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  hub.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  hub.close = () =>
    new Promise((done) => {
      server.close(() => done());
      server.closeAllConnections();
    });
  return hub;
}

function answer(hub: FakeHub, request: IncomingMessage, response: ServerResponse, body: string): void {
  const { pathname, searchParams } = new URL(request.url!, hub.url);
  hub.requests.push(`${request.method} ${pathname}${request.headers.range ? ` ${request.headers.range}` : ''}`);
  hub.tokens.add(request.headers.authorization);
  const json = (status: number, value: unknown) =>
    response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(value));
  const api = /^\/api\/(models|datasets)(?:\/(.+?)\/(revision|tree|paths-info)\/(.+))?$/.exec(pathname);
  if (api && api[2] === undefined) {
    const found = [...hub.repos.keys()].filter((key) => key.startsWith(api[1]) && key.includes('tiny'));
    expect(searchParams.get('search')).toBeTruthy();
    return void json(
      200,
      found.map((key) => ({ _id: key, id: key.slice(api[1].length + 1), gated: false, private: false })),
    );
  }
  const file = /^\/(datasets\/)?(.+?)\/resolve\/([^/]+)\/(.+)$/.exec(pathname);
  const key = api ? `${api[1]}/${api[2]}` : `${file?.[1] ?? 'models/'}${file?.[2]}`;
  const files = hub.repos.get(key);
  const status = hub.status.get(key);
  if (status) return void json(status, { error: 'Access to this repository is restricted' });
  if (!files) return void json(404, { error: 'Repository not found' });
  if (api?.[3] === 'revision') {
    if (api[4] !== 'main' && api[4] !== commit) return void json(404, { error: 'Invalid rev id' });
    return void json(200, { _id: '1', id: api[2], sha: hub.commit, gated: false, private: false });
  }
  const entry = (path: string) => {
    const content = files.get(path)!;
    const lfs = isLfs(path) ? { lfs: { oid: sha256(content), size: content.length, pointerSize: 130 } } : {};
    return { type: 'file', path, size: content.length, oid: gitSha1(content), ...lfs };
  };
  if (api?.[3] === 'tree') return void json(200, [...files.keys()].map(entry));
  if (api?.[3] === 'paths-info') return void json(200, (JSON.parse(body) as { paths: string[] }).paths.map(entry));
  serve(hub, file![4], files.get(file![4])!, request, response);
}

function serve(hub: FakeHub, path: string, original: Buffer, request: IncomingMessage, response: ServerResponse): void {
  const content = Buffer.from(original);
  if (hub.corrupt.has(path)) content[0] ^= 1;
  const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
  const start = Number(from ?? 0);
  const end = to === undefined ? content.length : Number(to) + 1;
  const etag = isLfs(path) ? sha256(original) : gitSha1(original);
  const range = request.headers.range ? { 'Content-Range': `bytes ${start}-${end - 1}/${content.length}` } : {};
  response.writeHead(request.headers.range ? 206 : 200, { ETag: `"${etag}"`, 'Content-Length': end - start, ...range });
  const cut = hub.cutAfter.get(path);
  if (cut === undefined || end - start <= 1) return void response.end(content.subarray(start, end));
  response.write(content.subarray(start, Math.min(end, start + cut)), () => setTimeout(() => response.destroy(), 20));
}

let hub: FakeHub;
let folder: string;
const weights = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * 7 + (i >> 8)) & 255));
const modelFiles = (): Map<string, Buffer> =>
  new Map([
    ['config.json', Buffer.from('{"model_type":"llama"}')],
    ['generation_config.json', Buffer.from('{}')],
    ['tokenizer.json', Buffer.from('{"version":"1.0"}')],
    ['tokenizer_config.json', Buffer.from('{}')],
    ['special_tokens_map.json', Buffer.from('{}')],
    ['model.safetensors', weights],
    ['consolidated.safetensors', Buffer.from('another copy')],
    ['pytorch_model.bin', Buffer.from('not wanted')],
    ['onnx/model.safetensors', Buffer.from('not wanted')],
    ['README.md', Buffer.from('not wanted')],
  ]);

beforeEach(async () => {
  hub = await startFakeHub();
  hub.repos.set('models/org/tiny-llama', modelFiles());
  folder = await mkdtemp(join(tmpdir(), 'blockwise-hub-'));
  vi.stubEnv('HF_ENDPOINT', hub.url);
  vi.stubEnv('HF_HOME', join(folder, 'home'));
  for (const name of ['HF_HUB_CACHE', 'HUGGINGFACE_HUB_CACHE', 'HF_TOKEN', 'HF_TOKEN_PATH', 'HF_HUB_OFFLINE']) {
    vi.stubEnv(name, undefined);
  }
});

afterEach(async () => {
  vi.unstubAllEnvs();
  await hub.close();
  await rm(folder, { recursive: true });
});

/** The message of the UserError that the promise must end in. */
async function refusal(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => undefined,
    (reason: Error) => reason,
  );
  expect(error).toMatchObject({ name: 'UserError' });
  return error!.message;
}

const blobs = () => readdir(join(folder, 'home/hub/models--org--tiny-llama/blobs'));

describe('an adapter', () => {
  const adapter = { 'adapter_config.json': '{}', 'adapter_model.safetensors': 'a' };

  it('is the folder itself, or the two files of a hub id', async () => {
    const own = join(folder, 'own-adapter');
    await mkdir(own);
    expect(await resolveAdapterPath(own)).toBe(own);
    const files = { ...adapter, 'tokenizer.json': '{}', 'optimizer.pt': 'large' };
    hub.repos.set(
      'models/org/adapter',
      new Map(Object.entries(files).map(([path, text]) => [path, Buffer.from(text)])),
    );
    expect((await readdir(await resolveAdapterPath('org/adapter'))).sort()).toEqual(Object.keys(adapter));
    await expect(resolveAdapterPath('org/tiny-llama')).rejects.toThrow(
      "adapter 'org/tiny-llama': the repository lacks adapter_config.json or adapter_model.safetensors",
    );
  });

  it('is no model, and where it belongs is said', async () => {
    const own = join(folder, 'adapter-as-model');
    await mkdir(own);
    for (const [name, text] of Object.entries(adapter)) await writeFile(join(own, name), text);
    await expect(resolveModelPath(own)).rejects.toThrow(/is a PEFT adapter: give the model that it was trained on/);
  });
});

describe('resolveModelPath', () => {
  it('returns a local folder as it is and asks no hub', async () => {
    expect(await resolveModelPath(folder)).toBe(folder);
    expect(hub.requests).toEqual([]);
  });

  it('lays the needed files out as the Hugging Face cache does: blobs by checksum, a ref, linked snapshots', async () => {
    const path = await resolveModelPath('org/tiny-llama');
    const storage = join(folder, 'home/hub/models--org--tiny-llama');
    expect(path).toBe(join(storage, 'snapshots', commit));
    expect((await readdir(path)).sort()).toEqual([
      'config.json',
      'generation_config.json',
      'model.safetensors',
      'special_tokens_map.json',
      'tokenizer.json',
      'tokenizer_config.json',
    ]);
    expect(await readFile(join(path, 'model.safetensors'))).toEqual(weights);
    expect((await lstat(join(path, 'model.safetensors'))).isSymbolicLink()).toBe(true);
    expect(await readlink(join(path, 'model.safetensors'))).toBe(join('../../blobs', sha256(weights)));
    expect(await readlink(join(path, 'config.json'))).toBe(
      join('../../blobs', gitSha1(Buffer.from('{"model_type":"llama"}'))),
    );
    expect(await readFile(join(storage, 'refs/main'), 'utf8')).toBe(commit);
  });

  it('downloads nothing twice, and honours cacheDir, HF_HUB_CACHE and a commit as revision', async () => {
    await resolveModelPath('org/tiny-llama');
    hub.requests.length = 0;
    await resolveModelPath('org/tiny-llama');
    expect(hub.requests.filter((line) => line.includes('/resolve/'))).toEqual([]);
    vi.stubEnv('HF_HUB_CACHE', join(folder, 'elsewhere'));
    expect(await resolveModelPath('org/tiny-llama', { revision: commit })).toContain(join(folder, 'elsewhere'));
    expect(await resolveModelPath('org/tiny-llama', { cacheDir: join(folder, 'given') })).toContain(
      join(folder, 'given'),
    );
  });

  it('reports progress in bytes of the whole model, up to its total', async () => {
    const seen: DownloadProgress[] = [];
    await resolveModelPath('org/tiny-llama', { onProgress: (progress) => seen.push({ ...progress }) });
    const wanted = [...modelFiles()].filter(([path]) => /^(model\.safetensors|[^/]+\.json)$/.test(path));
    const total = wanted.reduce((sum, [, content]) => sum + content.length, 0);
    expect(seen.at(-1)).toEqual({
      repo: 'org/tiny-llama',
      file: 'model.safetensors',
      receivedBytes: total,
      totalBytes: total,
    });
    expect(seen.every((now, i) => i === 0 || now.receivedBytes >= seen[i - 1].receivedBytes)).toBe(true);
  });

  it('continues a broken download by byte range, within one call and across calls', async () => {
    hub.cutAfter.set('model.safetensors', 100_000);
    const path = await resolveModelPath('org/tiny-llama');
    expect(await readFile(join(path, 'model.safetensors'))).toEqual(weights);
    const continued = hub.requests.filter((line) => /model\.safetensors bytes=[1-9]\d*-299999$/.test(line));
    expect(continued.length).toBeGreaterThan(0);

    await rm(join(folder, 'home'), { recursive: true });
    const interrupted = new Set<string>();
    hub.cutAfter.set('model.safetensors', 0);
    const message = await refusal(resolveModelPath('org/tiny-llama'));
    expect(message).toMatch(/model\.safetensors of org\/tiny-llama: the download stopped at 0 of 300000 bytes/);
    expect(message).toContain('run again to continue');
    for (const name of await blobs()) interrupted.add(name);
    expect(interrupted.has(sha256(weights))).toBe(false);

    // As after a crash: 120,000 bytes are there, under the name of a process that is gone.
    const storage = join(folder, 'home/hub/models--org--tiny-llama');
    await rm(join(storage, 'blobs', `${sha256(weights)}.incomplete`), { force: true });
    await writeFile(join(storage, 'blobs', `${sha256(weights)}.4194303-1.incomplete`), weights.subarray(0, 120_000));
    hub.cutAfter.clear();
    hub.requests.length = 0;
    expect(await readFile(join(await resolveModelPath('org/tiny-llama'), 'model.safetensors'))).toEqual(weights);
    expect(hub.requests).toContain(`GET /org/tiny-llama/resolve/${commit}/model.safetensors bytes=120000-299999`);
    expect((await blobs()).filter((name) => name.includes('incomplete'))).toEqual([]);
  });

  it('starts again from the first byte when the kept part turns out to be damaged', async () => {
    const storage = join(folder, 'home/hub/models--org--tiny-llama/blobs');
    await mkdir(storage, { recursive: true });
    await writeFile(join(storage, `${sha256(weights)}.incomplete`), Buffer.alloc(50_000));
    const path = await resolveModelPath('org/tiny-llama');
    expect(await readFile(join(path, 'model.safetensors'))).toEqual(weights);
  });

  it.each(['model.safetensors', 'config.json'])('refuses a corrupted %s and leaves nothing of it', async (file) => {
    hub.corrupt.add(file);
    const message = await refusal(resolveModelPath('org/tiny-llama'));
    expect(message).toMatch(
      new RegExp(`^${file} of org/tiny-llama: the (sha256|git-sha1) of what arrived is .* the hub lists .*`),
    );
    expect(message).toContain('The file was removed');
    const content = modelFiles().get(file)!;
    const left = await blobs();
    expect(left.filter((name) => name.startsWith(file === 'config.json' ? gitSha1(content) : sha256(content)))).toEqual(
      [],
    );
    await expect(readFile(join(folder, 'home/hub/models--org--tiny-llama/refs/main'))).rejects.toThrow('ENOENT');
  });

  it('gives two downloads at once a partial file each', async () => {
    const paths = await Promise.all([resolveModelPath('org/tiny-llama'), resolveModelPath('org/tiny-llama')]);
    expect(paths[0]).toBe(paths[1]);
    expect(await readFile(join(paths[0], 'model.safetensors'))).toEqual(weights);
  });

  it('fetches every shard of the index and leaves the other copies', async () => {
    const index = { weight_map: { a: 'model-00001-of-00002.safetensors', b: 'model-00002-of-00002.safetensors' } };
    const files = modelFiles();
    files.delete('model.safetensors');
    files.set('model.safetensors.index.json', Buffer.from(JSON.stringify(index)));
    for (const shard of Object.values(index.weight_map)) files.set(shard, Buffer.from(shard));
    hub.repos.set('models/org/sharded', files);
    const path = await resolveModelPath('org/sharded');
    const present = (await readdir(path)).filter((name) => name.includes('safetensors'));
    expect(present.sort()).toEqual([...Object.values(index.weight_map), 'model.safetensors.index.json'].sort());
    await rm(join(path, 'model-00002-of-00002.safetensors'));
    vi.stubEnv('HF_HUB_OFFLINE', '1');
    expect(await refusal(resolveModelPath('org/sharded'))).toMatch(
      /'org\/sharded' .* is not, or not whole, in the cache/,
    );
  });

  it('sends the token of HF_TOKEN or of the token file, and shows it in no message', async () => {
    vi.stubEnv('HF_TOKEN', 'hf_fromEnvironment');
    await resolveModelPath('org/tiny-llama');
    expect(hub.tokens).toEqual(new Set(['Bearer hf_fromEnvironment']));
    vi.stubEnv('HF_TOKEN', undefined);
    await writeFile(join(folder, 'home/token'), 'hf_fromFile\n');
    hub.tokens.clear();
    hub.status.set('models/org/gated', 403);
    const message = await refusal(resolveModelPath('org/gated'));
    expect(hub.tokens).toEqual(new Set(['Bearer hf_fromFile']));
    expect(message).not.toContain('fromFile');
    expect(message).toContain('The token that was sent does not open it');
    vi.stubEnv('HF_TOKEN', 'secret-of-another-kind');
    const refused = await refusal(resolveModelPath('org/gated'));
    expect(refused).toMatch(/^HF_TOKEN: not an access token/);
    expect(refused).not.toContain('secret');
  });

  it('says what to do without access: set HF_TOKEN, accept the licence', async () => {
    hub.status.set('models/org/gated', 401);
    const message = await refusal(resolveModelPath('org/gated'));
    expect(message).toContain("model 'org/gated'");
    expect(message).toContain('no access (status 401)');
    expect(message).toContain('set HF_TOKEN');
    expect(message).toContain(`accept its licence at ${hub.url}/org/gated`);
  });

  it('names near models when there is none of that name, and the local folder that it looked for', async () => {
    const message = await refusal(resolveModelPath('org/tiny-lama'));
    expect(message).toMatch(/^model 'org\/tiny-lama' .*\(revision main\) was not found/);
    expect(message).toContain('Near names: org/tiny-llama.');
    expect(message).toContain(`(no local ${join(process.cwd(), 'org/tiny-lama')})`);
    const revision = await refusal(resolveModelPath('org/tiny-llama', { revision: 'v2' }));
    expect(revision).toContain('(revision v2) was not found');
    expect(await refusal(resolveModelPath('org/tiny-llama', { revision: '../../etc' }))).toMatch(/expected a branch/);
  });

  it('passes on other answers of the hub with their status', async () => {
    hub.status.set('models/org/busy', 503);
    expect(await refusal(resolveModelPath('org/busy'))).toContain('answered with status 503. Try again later.');
  });

  it('says where it looked for a wrong local path, and what is there instead', async () => {
    await mkdir(join(folder, 'stories260K'));
    const message = await refusal(resolveModelPath(join(folder, 'stories260k')));
    expect(message).toContain(`no folder ${join(folder, 'stories260k')}`);
    expect(message).toContain(`Did you mean ${join(folder, 'stories260K')}?`);
    expect(await refusal(resolveModelPath('./no/such/model'))).toContain(
      `${join(process.cwd(), 'no/such')} does not exist`,
    );
    await writeFile(join(folder, 'weights.safetensors'), '');
    expect(await refusal(resolveModelPath(join(folder, 'weights.safetensors')))).toContain(
      'is a file; expected a folder',
    );
  });

  it('refuses a repository without safetensors before downloading', async () => {
    hub.repos.set(
      'models/org/old',
      new Map([
        ['config.json', Buffer.from('{}')],
        ['pytorch_model.bin', weights],
      ]),
    );
    expect(await refusal(resolveModelPath('org/old'))).toContain('convert them to safetensors');
    expect(hub.requests.filter((line) => line.includes('/resolve/'))).toEqual([]);
  });

  it('uses only the cache when HF_HUB_OFFLINE is set', async () => {
    vi.stubEnv('HF_HUB_OFFLINE', '1');
    const message = await refusal(resolveModelPath('org/tiny-llama'));
    expect(message).toContain('HF_HUB_OFFLINE forbids downloading');
    expect(message).toContain(join(folder, 'home/hub'));
    expect(hub.requests).toEqual([]);
    vi.stubEnv('HF_HUB_OFFLINE', undefined);
    const path = await resolveModelPath('org/tiny-llama');
    vi.stubEnv('HF_HUB_OFFLINE', 'true');
    hub.requests.length = 0;
    expect(await resolveModelPath('org/tiny-llama')).toBe(path);
    expect(await resolveModelPath('org/tiny-llama', { revision: commit })).toBe(path);
    expect(hub.requests).toEqual([]);
  });

  it('falls back on a complete cache when the hub is out of reach, and says so when there is none', async () => {
    const path = await resolveModelPath('org/tiny-llama');
    await hub.close();
    expect(await resolveModelPath('org/tiny-llama')).toBe(path);
    const message = await refusal(resolveModelPath('org/other'));
    expect(message).toContain(`${hub.url} cannot be reached (ECONNREFUSED)`);
    expect(message).toContain('has no complete copy');
  });

  it('refuses an HF_ENDPOINT that is no web address, and says what to write; the cache needs none', async () => {
    await resolveModelPath('org/tiny-llama');
    for (const wrong of ['hf-mirror.com', 'localhost:8080', 'https://']) {
      vi.stubEnv('HF_ENDPOINT', wrong);
      expect(await refusal(resolveModelPath('org/tiny-llama'))).toContain(
        `HF_ENDPOINT: found '${wrong.replace(/\/+$/, '')}', expected the address of a hub with its https://, as https://hf-mirror.com`,
      );
    }
    vi.stubEnv('HF_HUB_OFFLINE', '1');
    expect(await resolveModelPath('org/tiny-llama')).toContain('tiny-llama');
  });

  it('refuses a checksum that is no file name', async () => {
    const evil = { type: 'file', path: 'config.json', size: 2, oid: '../../escape' };
    await hub.close();
    const server = createServer((request, response) => {
      const value = request.url!.includes('/tree/') ? [evil, { ...evil, path: 'model.safetensors' }] : { sha: commit };
      response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(value));
    });
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    vi.stubEnv('HF_ENDPOINT', `http://127.0.0.1:${(server.address() as AddressInfo).port}`);
    expect(await refusal(resolveModelPath('org/evil'))).toContain('the hub lists no usable checksum');
    server.closeAllConnections();
    server.close();
  });
});

/** The files alone. */
const filesOf = async (name: string) => (await resolveDataset(name)).files;

describe('resolveDataset', () => {
  it('takes local files and folders', async () => {
    for (const name of ['b.jsonl', 'a.json', 'c.parquet', 'notes.md']) await writeFile(join(folder, name), '');
    for (const name of ['a.json', 'b.jsonl', 'c.parquet'])
      expect(await filesOf(join(folder, name))).toEqual([join(folder, name)]);
    await mkdir(join(folder, 'set'));
    await writeFile(join(folder, 'set/train.json'), '');
    await writeFile(join(folder, 'set/test.json'), '');
    expect(await filesOf(join(folder, 'set'))).toEqual([join(folder, 'set/train.json')]);
    expect(await refusal(filesOf(join(folder, 'notes.md')))).toContain('not a .json, .jsonl, .parquet or .txt file');
    await mkdir(join(folder, 'empty'));
    expect(await refusal(filesOf(join(folder, 'empty')))).toContain('holds no .json, .jsonl or .parquet');
  });

  it("finds the readme's alpaca_gpt4_en on the hub", async () => {
    const content = Buffer.from('[]');
    hub.repos.set(
      'datasets/llamafactory/alpaca_gpt4_en',
      new Map([
        ['README.md', content],
        ['dataset_infos.json', content],
        ['alpaca_gpt4_data_en.json', content],
      ]),
    );
    const storage = join(folder, 'home/hub/datasets--llamafactory--alpaca_gpt4_en/snapshots', commit);
    expect(await filesOf('alpaca_gpt4_en')).toEqual([join(storage, 'alpaca_gpt4_data_en.json')]);
    expect(hub.requests).toContain(
      `GET /datasets/llamafactory/alpaca_gpt4_en/resolve/${commit}/alpaca_gpt4_data_en.json`,
    );
  });

  it('takes one format and the training split of a hub id, and a subset where a name stands for one', async () => {
    const shard = (text: string) => Buffer.from(text);
    const paths = [
      'data/train-00000-of-00002.parquet',
      'data/train-00001-of-00002.parquet',
      'data/test-0.parquet',
      'train.json',
    ];
    hub.repos.set('datasets/org/many', new Map(paths.map((path) => [path, shard(path)])));
    const found = await filesOf('org/many');
    expect(found.map((path) => path.split(commit)[1])).toEqual([`/${paths[0]}`, `/${paths[1]}`]);
    expect(await readFile(found[1], 'utf8')).toBe(paths[1]);
    // As where Python has fetched one of them.
    vi.stubEnv('HF_HUB_OFFLINE', '1');
    expect(await filesOf('org/many')).toEqual(found);
    await rm(found[0]);
    expect(await refusal(filesOf('org/many'))).toMatch(/'org\/many' .* is not, or not whole, in the cache/);
    vi.stubEnv('HF_HUB_OFFLINE', undefined);
    const demos = ['alpaca_en_demo.json', 'alpaca_zh_demo.json', 'dataset_info.json', 'identity.json'];
    hub.repos.set('datasets/llamafactory/demo_data', new Map(demos.map((path) => [path, shard(path)])));
    expect((await filesOf('alpaca_en_demo')).map((path) => path.split(commit)[1])).toEqual(['/alpaca_en_demo.json']);
  });

  it('names near datasets for an unknown name, and the file that it looked for', async () => {
    const message = await refusal(filesOf('alpaca_gpt_en'));
    expect(message).toContain("dataset 'alpaca_gpt_en' is unknown");
    expect(message).toContain('Did you mean alpaca_gpt4_en or');
    expect(message).toContain(join(process.cwd(), 'alpaca_gpt_en'));
    await writeFile(join(folder, 'alpaca.json'), '');
    const path = await refusal(filesOf(join(folder, 'alpca.json')));
    expect(path).toContain(`no file ${join(folder, 'alpca.json')}`);
    expect(path).toContain(`Did you mean ${join(folder, 'alpaca.json')}?`);
    hub.repos.set('datasets/org/pictures', new Map([['a.png', Buffer.from('')]]));
    expect(await refusal(filesOf('org/pictures'))).toContain('org/pictures holds no .json');
    expect(await refusal(filesOf('no-such/dataset'))).toContain('(revision main) was not found');
  });

  it('refuses a file path that leaves the cache', async () => {
    hub.repos.set('datasets/org/evil', new Map([['../../../escape.json', Buffer.from('[]')]]));
    expect(await refusal(filesOf('org/evil'))).toContain('outside of its repository');
    expect(await readdir(folder)).not.toContain('escape.json');
  });

  it('refuses a commit whose name leads out of the cache', async () => {
    hub.repos.set('datasets/org/evil', new Map([['a.json', Buffer.from('[]')]]));
    hub.commit = '../../../../../evil';
    expect(await refusal(filesOf('org/evil'))).toContain("calls the commit '../../../../../evil'");
    expect(await readdir(folder)).not.toContain('evil');
  });
});
