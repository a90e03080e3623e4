import { UserError } from '@blockwise/errors';
import { randomUUID } from 'node:crypto';
import { mkdir, readFile, rename, stat, statfs, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import {
  datasetInfo,
  downloadFile,
  downloadFileToCacheDir,
  getHFHubCachePath,
  getRepoFolderName,
  HubApiError,
  listDatasets,
  listFiles,
  listModels,
  modelInfo,
  type ListFileEntry,
} from '@huggingface/hub';
import { describeCause, downloadBlob, type HubBlob } from './hub-blob.ts';
import { listFolder } from './list-folder.ts';

/** A model or dataset repository on the hub. */
export interface HubRepo {
  type: 'model' | 'dataset';
  /** `org/name`, or a bare name for the hub's oldest repositories. */
  name: string;
  /** Where a local copy was looked for first; messages about an absent repository say so. */
  triedPath?: string;
}

/** How far the download of one repository is; files already in the cache count as received. */
export interface DownloadProgress {
  repo: string;
  file: string;
  receivedBytes: number;
  totalBytes: number;
}

/** Where the hub's files are kept, which revision of them, and who is told of a download. */
export interface HubOptions {
  /** Cache folder; default HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub. */
  cacheDir?: string;
  /** Branch, tag or commit; default `main`. */
  revision?: string;
  /** Called for each piece that arrives. */
  onProgress?: (progress: DownloadProgress) => void;
}

/** Files of one commit of a repository, in the cache. */
export interface HubSnapshot {
  /** `<cache>/models--org--name/snapshots/<commit>`. */
  folder: string;
  /** The selected files, relative to `folder`. */
  files: string[];
}

/** Picks the wanted ones of a repository's file paths; throws where what is needed is not among them. */
export type FileSelection = (paths: string[]) => string[];

interface Connection {
  repo: HubRepo;
  revision: string;
  hubUrl: string;
  cacheDir: string;
  accessToken: string | undefined;
}

/**
 * Brings the selected files of a hub repository into the usual Hugging Face cache (blobs, refs, snapshots: shared with the
 * Python libraries), downloading only what is missing, resumably and with checksums, and returns the snapshot folder.
 *
 * The ref is written last, so what this function leaves in the cache is complete. What the Python libraries leave there may not be: of
 * numbered files (`-00000-of-00003`) all are asked for. Honoured: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN (or the token file; never
 * shown), HF_HUB_OFFLINE. Where the hub is out of reach and the cache holds the revision, the cache is used.
 *
 * @throws UserError not found (with near names), no access, out of reach and not cached, no space, interrupted, wrong checksum, an
 * HF_ENDPOINT or HF_TOKEN that cannot be one
 */
export async function hubSnapshot(
  repo: HubRepo,
  select: FileSelection,
  options: HubOptions = {},
): Promise<HubSnapshot> {
  const connection: Connection = {
    repo,
    revision: options.revision ?? 'main',
    hubUrl: (process.env.HF_ENDPOINT || 'https://huggingface.co').replace(/\/+$/, ''),
    cacheDir: options.cacheDir ?? getHFHubCachePath(),
    accessToken: undefined,
  };
  if (connection.revision.split(/[/\\]/).includes('..')) {
    throw new UserError(`revision '${connection.revision}': expected a branch, tag or commit of ${repo.name}`);
  }
  if (isOffline()) {
    const cached = await cachedSnapshot(connection, select);
    if (cached) return cached;
    const tried = repo.triedPath ? `there is no local ${repo.triedPath}, and ` : '';
    throw new UserError(
      `${tried}${repo.type} '${repo.name}' (revision ${connection.revision}) is not, or not whole, in the cache ${connection.cacheDir}, and ` +
        'HF_HUB_OFFLINE forbids downloading. Unset HF_HUB_OFFLINE, or give a local path.',
    );
  }
  try {
    checkEndpoint(connection.hubUrl);
    connection.accessToken = await readToken();
    return await download(connection, select, options.onProgress);
  } catch (error) {
    if (error instanceof TypeError && error.message === 'fetch failed') {
      const cached = await cachedSnapshot(connection, select);
      if (cached) return cached;
    }
    throw await explain(error, connection);
  }
}

async function download(
  connection: Connection,
  select: FileSelection,
  onProgress?: (progress: DownloadProgress) => void,
): Promise<HubSnapshot> {
  const { repo, revision, hubUrl, cacheDir, accessToken } = connection;
  const access = { hubUrl, ...(accessToken === undefined ? {} : { accessToken }) };
  const query = { name: repo.name, revision, additionalFields: ['sha' as const], ...access };
  const { sha: commit } = await (repo.type === 'model' ? modelInfo(query) : datasetInfo(query));
  // It becomes a folder's name.
  if (!isCommit(commit))
    throw new UserError(`${hubUrl} calls the commit '${commit}' of ${repo.name}, which is none: is HF_ENDPOINT a hub?`);
  const listed = new Map<string, ListFileEntry>();
  for await (const entry of listFiles({ repo, recursive: true, revision: commit, ...access })) {
    if (entry.type === 'file') listed.set(entry.path, entry);
  }
  const files = select([...listed.keys()]);
  const storage = join(cacheDir, getRepoFolderName(repo));
  const blobs = files.map((path) => {
    const open = () => openRemote({ repo, path, revision: commit, ...access });
    const blob = toBlob(listed.get(path)!, repo, open);
    return { path, blob, blobPath: join(storage, 'blobs', blob.checksum.hex) };
  });
  await checkSpace(cacheDir, await missingBytes(blobs));
  const progress = { receivedBytes: 0, totalBytes: blobs.reduce((sum, { blob }) => sum + blob.size, 0) };
  for (const { path, blob, blobPath } of blobs) {
    const report = (bytes: number) => {
      progress.receivedBytes += bytes;
      onProgress?.({ repo: repo.name, file: path, ...progress });
    };
    if (await isFile(blobPath, blob.size)) report(blob.size);
    else await downloadBlob(blob, blobPath, report);
    // The blob is there: this only checks the path and links it into the snapshot.
    await downloadFileToCacheDir({ repo, path, revision: commit, cacheDir, ...access });
  }
  await writeRef(join(storage, 'refs', revision), commit, revision);
  return { folder: join(storage, 'snapshots', commit), files };
}

/** The snapshot that the cache holds of the revision, where it has all that `select` needs. */
async function cachedSnapshot(connection: Connection, select: FileSelection): Promise<HubSnapshot | undefined> {
  const { repo, revision, cacheDir } = connection;
  const storage = join(cacheDir, getRepoFolderName(repo));
  const commit = isCommit(revision)
    ? revision
    : (await readFile(join(storage, 'refs', revision), 'utf8').catch(() => '')).trim();
  if (!isCommit(commit)) return undefined;
  const folder = join(storage, 'snapshots', commit);
  try {
    const files = select(await listFolder(folder));
    return hasAllParts(files) ? { folder, files } : undefined;
  } catch {
    return undefined; // no such snapshot, or a partial one
  }
}

const isCommit = (name: string): boolean => /^[0-9a-f]{40}$/.test(name);

/** Whether of numbered files (`train-00000-of-00003.parquet`) none is missing. */
function hasAllParts(files: readonly string[]): boolean {
  const numbered = files.map((file) => /^(.*\D)\d+-of-(\d+)/.exec(file)).filter((found) => found !== null);
  return numbered.every(([, series, count]) => numbered.filter((other) => other[1] === series).length >= Number(count));
}

function toBlob(entry: ListFileEntry, repo: HubRepo, open: () => Promise<Blob>): HubBlob {
  const checksum = entry.lfs
    ? { algorithm: 'sha256' as const, hex: entry.lfs.oid.replace(/^sha256:/, '') }
    : { algorithm: 'git-sha1' as const, hex: entry.oid ?? '' };
  if (entry.path.split(/[/\\]/).includes('..')) {
    throw new UserError(
      `${entry.path} of ${repo.name}: the hub lists a file outside of its repository; not downloaded`,
    );
  }
  const digits = checksum.algorithm === 'sha256' ? 64 : 40;
  // The checksum becomes a file name.
  if (!new RegExp(`^[0-9a-f]{${digits}}$`).test(checksum.hex)) {
    throw new UserError(`${entry.path} of ${repo.name}: the hub lists no usable checksum (found '${checksum.hex}')`);
  }
  return { label: `${entry.path} of ${repo.name}`, size: entry.lfs?.size ?? entry.size, checksum, open };
}

async function openRemote(source: Parameters<typeof downloadFile>[0]): Promise<Blob> {
  // Plain HTTP also for files in Xet storage: the hub serves them whole at the same address, and a byte range can resume them.
  const blob = await downloadFile({ ...source, xet: false });
  if (!blob) throw new UserError(`${source.path}: listed by the hub, but not found there. Run again.`);
  return blob;
}

async function missingBytes(blobs: { blob: HubBlob; blobPath: string }[]): Promise<number> {
  let bytes = 0;
  for (const { blob, blobPath } of blobs) if (!(await isFile(blobPath, blob.size))) bytes += blob.size;
  return bytes;
}

async function checkSpace(cacheDir: string, bytes: number): Promise<void> {
  await mkdir(cacheDir, { recursive: true });
  const { bavail, bsize } = await statfs(cacheDir);
  if (bytes <= bavail * bsize) return;
  const inGigabytes = (value: number) => (value / 1e9).toFixed(2);
  throw new UserError(
    `${cacheDir}: ${inGigabytes(bytes)} GB are to be downloaded and ${inGigabytes(bavail * bsize)} GB are free. ` +
      'Free space, or set HF_HUB_CACHE to a folder on another disk.',
  );
}

async function isFile(path: string, size: number): Promise<boolean> {
  return stat(path).then(
    (found) => found.isFile() && found.size === size,
    () => false,
  );
}

async function writeRef(path: string, commit: string, revision: string): Promise<void> {
  if (revision === commit) return;
  await mkdir(dirname(path), { recursive: true });
  const aside = `${path}.${randomUUID()}.tmp`;
  await writeFile(aside, commit);
  await rename(aside, path);
}

function isOffline(): boolean {
  return [process.env.HF_HUB_OFFLINE, process.env.TRANSFORMERS_OFFLINE].some((value) =>
    ['1', 'true', 'yes', 'on'].includes((value ?? '').toLowerCase()),
  );
}

function checkEndpoint(hubUrl: string): void {
  if (URL.canParse(hubUrl) && /^https?:/.test(hubUrl)) return;
  throw new UserError(
    `HF_ENDPOINT: found '${hubUrl}', expected the address of a hub with its https://, as https://hf-mirror.com. Correct or unset it.`,
  );
}

/** HF_TOKEN, else the file that `hf auth login` leaves. */
async function readToken(): Promise<string | undefined> {
  const home = process.env.HF_HOME ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'huggingface');
  const file = process.env.HF_TOKEN_PATH ?? join(home, 'token');
  const fromFile = () => readFile(file, 'utf8').catch(() => '');
  const token = (process.env.HF_TOKEN || (await fromFile())).trim();
  if (token === '') return undefined;
  if (!token.startsWith('hf_')) {
    const where = process.env.HF_TOKEN ? 'HF_TOKEN' : file;
    throw new UserError(`${where}: not an access token of the hub (they start with 'hf_'). Correct or remove it.`);
  }
  return token;
}

/** The user's error for what went wrong at the hub. The library's own messages are not shown: they hold signed addresses. */
async function explain(error: unknown, connection: Connection): Promise<unknown> {
  const { repo, revision, hubUrl, cacheDir, accessToken } = connection;
  const what = `${repo.type} '${repo.name}'${repo.triedPath ? ` (no local ${repo.triedPath})` : ''}`;
  if (error instanceof HubApiError) {
    if (error.statusCode === 401 || error.statusCode === 403) {
      const page = `${hubUrl}/${repo.type === 'dataset' ? 'datasets/' : ''}${repo.name}`;
      const token = accessToken === undefined ? 'No token was sent' : 'The token that was sent does not open it';
      return new UserError(
        `${what}: no access (status ${error.statusCode}). It is private, gated, or does not exist. ${token}: set HF_TOKEN to ` +
          `a token with read access and, for a gated one, accept its licence at ${page}.`,
      );
    }
    if (error.statusCode === 404) {
      const near = await nearNames(connection);
      return new UserError(
        `${what} (revision ${revision}) was not found at ${hubUrl}. ` +
          (near.length > 0 ? `Near names: ${near.join(', ')}.` : 'Check the name on the site, or give a local path.'),
      );
    }
    return new UserError(`${what}: ${hubUrl} answered with status ${error.statusCode}. Try again later.`);
  }
  if (error instanceof TypeError && error.message === 'fetch failed') {
    return new UserError(
      `${what}: ${hubUrl} cannot be reached (${describeCause(error)}), and the cache ${cacheDir} has no complete copy. ` +
        'Check the connection, set HF_ENDPOINT to a mirror, or give a local path.',
    );
  }
  return error;
}

/** What the hub's own search finds for the last part of the name; nothing where it does not answer. */
async function nearNames({ repo, hubUrl, accessToken }: Connection): Promise<string[]> {
  const query = repo.name.slice(repo.name.indexOf('/') + 1);
  const access = { hubUrl, ...(accessToken === undefined ? {} : { accessToken }) };
  const names: string[] = [];
  try {
    const wanted = { search: { query }, limit: 3, ...access };
    for await (const { name } of repo.type === 'model' ? listModels(wanted) : listDatasets(wanted)) names.push(name);
  } catch {
    // advice only
  }
  return names.filter((name) => name !== repo.name);
}
