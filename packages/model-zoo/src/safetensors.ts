import { isObject, UserError } from '@blockwise/errors';
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';

import { dtypes, type DType } from '@blockwise/tensorflow';

import { publish, writeAside } from './atomic-file.ts';
import { brief, briefName, shorten } from './json-object.ts';
import { scanJson } from './json-scan.ts';

/** The dtypes of the safetensors format that this package carries, with their engine name. */
const formatDtypes = {
  ...{ F64: 'float64', F32: 'float32', BF16: 'bfloat16', F16: 'float16', I64: 'int64', I32: 'int32' },
  ...{ I8: 'int8', U8: 'uint8', U16: 'uint16', BOOL: 'bool' },
} as const satisfies Record<string, DType>;

type FormatDtype = keyof typeof formatDtypes;

const codeOf = new Map(Object.entries(formatDtypes).map(([code, dtype]) => [dtype as DType, code as FormatDtype]));

/** Where one tensor lies in its file. */
export interface SafetensorsEntry {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Bytes from the start of the file. */
  readonly offset: number;
  readonly byteLength: number;
}

export interface SafetensorsHeader {
  readonly metadata: Readonly<Record<string, string>>;
  /** By tensor name, in the order of their bytes in the file. */
  readonly entries: ReadonlyMap<string, SafetensorsEntry>;
}

/**
 * What a tensor must offer to be written; the engine's `RawTensor` does. `bytes` is called once, when its turn comes.
 */
export interface WritableTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  bytes(): Uint8Array;
}

/** Largest header of the official implementation (`MAX_HEADER_SIZE`, safetensors/src/tensor.rs). */
const maxHeaderBytes = 100_000_000;
/** TensorFlow uses mapped memory in place at multiples of 64 bytes only. */
const alignment = 64;
const maxWriteBytes = 1 << 30;

/**
 * Reads and checks the header of a safetensors file; no tensor bytes are read. The rules are the official crate's
 * (`validate` in safetensors/src/tensor.rs): tensors cover the bytes after the header from first to last without holes
 * or overlaps, and each span is its shape times its dtype. Names that stand twice are refused too, where the crate
 * keeps one.
 * @throws UserError naming the file and all that is wrong with it.
 */
export function readSafetensorsHeader(path: string): SafetensorsHeader {
  const { json, dataStart, fileBytes } = readHeaderText(path);
  const scan = scanJson(json, 3); // {name: {shape: [
  if (scan.tooDeep) throw broken(path, 'its header nests deeper than any safetensors header');
  const problems = scan.duplicateKeys.map((name) => `the header lists ${brief(name)} twice`);
  const header = parseHeaderJson(path, json);
  const metadata = checkMetadata(header['__metadata__'], problems);
  const found: [string, SafetensorsEntry][] = [];
  for (const [name, value] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const entry = checkEntry(name, value, dataStart, problems);
    if (entry) found.push([name, entry]);
  }
  found.sort(([, a], [, b]) => a.offset - b.offset || a.byteLength - b.byteLength);
  if (problems.length === 0) checkCoverage(found, dataStart, fileBytes, problems);
  if (problems.length > 0) throw UserError.of(path, shorten(problems));
  return { metadata, entries: new Map(found) };
}

/** The header's text, after its length has been checked against the file's. */
function readHeaderText(path: string): { json: string; dataStart: number; fileBytes: number } {
  const file = openForReading(path);
  try {
    const stat = fstatSync(file);
    if (!stat.isFile()) throw new UserError(`${path}: expected a safetensors file, found a folder or device`);
    const fileBytes = stat.size;
    if (fileBytes < 8) throw broken(path, `it has ${fileBytes} bytes, fewer than the 8 of the header's length`);
    const headerBytes = Number(readExactly(path, file, 0, 8).readBigUInt64LE());
    if (headerBytes > maxHeaderBytes) {
      throw broken(path, `its header claims ${headerBytes} bytes, more than the ${maxHeaderBytes} the format allows`);
    }
    if (8 + headerBytes > fileBytes) {
      throw broken(path, `its header claims ${headerBytes} bytes, but the whole file has ${fileBytes}`);
    }
    return { json: decodeUtf8(path, readExactly(path, file, 8, headerBytes)), dataStart: 8 + headerBytes, fileBytes };
  } finally {
    closeSync(file);
  }
}

export function openForReading(path: string): number {
  try {
    return openSync(path, 'r');
  } catch (error) {
    throw new UserError(
      `${path}: cannot be opened (${(error as NodeJS.ErrnoException).code}); expected a safetensors file`,
    );
  }
}

/** Bytes of an open file. @throws UserError where it ends before. */
export function readExactly(path: string, file: number, position: number, length: number): Buffer {
  const buffer = Buffer.alloc(length);
  let done = 0;
  while (done < length) {
    const count = readSync(file, buffer, done, length - done, position + done);
    if (count === 0)
      throw new UserError(`${path} ended at byte ${position + done} while it was read: is it still being written?`);
    done += count;
  }
  return buffer;
}

function decodeUtf8(path: string, bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw broken(path, 'its header is not UTF-8');
  }
}

function parseHeaderJson(path: string, json: string): Record<string, unknown> {
  let header: unknown;
  try {
    header = JSON.parse(json);
  } catch {
    throw broken(path, 'its header is not JSON');
  }
  if (!isObject(header)) throw broken(path, 'its header is not a JSON object');
  return header;
}

function broken(path: string, what: string): UserError {
  return new UserError(`${path}: not a complete safetensors file: ${what}; copy or download it again`);
}

function checkMetadata(value: unknown, problems: string[]): Record<string, string> {
  if (value === undefined || value === null) return {};
  if (isObject(value) && Object.values(value).every((entry) => typeof entry === 'string')) {
    return value as Record<string, string>;
  }
  problems.push('__metadata__: expected an object of strings');
  return {};
}

/** One tensor's record, or undefined after its problems have been noted. */
function checkEntry(name: string, value: unknown, dataStart: number, problems: string[]): SafetensorsEntry | undefined {
  const problem = (text: string): undefined => void problems.push(`${briefName(name)}: ${text}`);
  if (!isObject(value)) return problem(`expected {dtype, shape, data_offsets}, found ${brief(value)}`);
  const { dtype, shape, data_offsets: span } = value;
  if (typeof dtype !== 'string' || !Object.hasOwn(formatDtypes, dtype)) {
    return problem(`dtype ${brief(dtype)} is not supported, expected one of ${Object.keys(formatDtypes).join(', ')}`);
  }
  if (!isSizes(shape)) return problem(`shape ${brief(shape)} is not a list of sizes`);
  if (!isSizes(span) || span.length !== 2 || span[0]! > span[1]!) {
    return problem(`data_offsets ${brief(span)} are not [begin, end]`);
  }
  const ours = formatDtypes[dtype as FormatDtype];
  const byteLength = span[1]! - span[0]!;
  // Rounded above 2^53, which no span reaches.
  const needed = byteLengthOf(ours, shape);
  if (needed !== byteLength) {
    const found = Number.isSafeInteger(needed) ? needed : 'more than 2^53';
    return problem(`${dtype} ${brief(shape)} takes ${found} bytes, but data_offsets span ${byteLength}`);
  }
  return { dtype: ours, shape, offset: dataStart + span[0]!, byteLength };
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}

/** Tensors in order of offset must follow each other from the header to the file's last byte. */
function checkCoverage(
  entries: readonly (readonly [string, SafetensorsEntry])[],
  dataStart: number,
  fileBytes: number,
  problems: string[],
): void {
  let end = dataStart;
  for (const [name, { offset, byteLength }] of entries) {
    if (offset !== end) {
      const kind = offset < end ? 'overlaps the tensor before it' : 'leaves a hole before it';
      problems.push(
        `${briefName(name)}: begins at byte ${offset - dataStart} of the data and ${kind}, expected ${end - dataStart}`,
      );
    }
    end = offset + byteLength;
  }
  if (end !== fileBytes) {
    const kind = end > fileBytes ? 'cut short' : 'longer than its tensors';
    problems.push(`the file is ${kind}: expected ${end} bytes, found ${fileBytes}; copy or download it again`);
  }
}

/** Bytes of a tensor of this dtype and shape. */
export function byteLengthOf(dtype: DType, shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, dtypes[dtype].bytes);
}

/**
 * Writes a safetensors file tensor by tensor (never more than one in memory), synced, written aside and renamed: it is
 * complete or absent. The data begins at a multiple of 64 bytes; since the format forbids holes, tensors whose size is
 * a multiple of 64 come first, so that each of them can be mapped in place; the others follow by descending element
 * size, which keeps every element aligned to its own size.
 * @param tensors names and tensors, borrowed; `Map<string, RawTensor>` fits.
 * @param metadata default `{ format: 'pt' }`, without which transformers refuses the file.
 * @throws UserError where the file cannot be written.
 */
export async function writeSafetensors(
  path: string,
  tensors: Iterable<readonly [string, WritableTensor]>,
  metadata?: Readonly<Record<string, string>>,
): Promise<void> {
  await writeSafetensorsAside(path, tensors, metadata);
  await publish([path]);
}

/** `writeSafetensors` up to the rename, which `publish` does: for several files that should appear together. */
export async function writeSafetensorsAside(
  path: string,
  tensors: Iterable<readonly [string, WritableTensor]>,
  metadata: Readonly<Record<string, string>> = { format: 'pt' },
): Promise<void> {
  const ordered = layOut(tensors);
  await writeAside(path, async (file) => {
    await writeAll(file, headerOf(ordered, metadata));
    for (const [name, tensor] of ordered) {
      const bytes = tensor.bytes();
      const needed = byteLengthOf(tensor.dtype, tensor.shape);
      if (bytes.byteLength !== needed) {
        throw new Error(`internal: ${name} has ${bytes.byteLength} bytes, its dtype and shape take ${needed}`);
      }
      await writeAll(file, bytes);
    }
  });
}

/**
 * Writes a file whose tensors are all zeros and take no room on the disk (a hole): to open a model of which only the shapes are known.
 */
export async function writeHollowSafetensors(
  path: string,
  tensors: Iterable<readonly [string, Layout]>,
): Promise<void> {
  const ordered = layOut(tensors);
  const header = headerOf(ordered, { format: 'pt' });
  await writeAside(path, async (file) => {
    await writeAll(file, header);
    const bytes = ordered.reduce((sum, [, { dtype, shape }]) => sum + byteLengthOf(dtype, shape), 0);
    await file.truncate(header.byteLength + bytes);
  });
  await publish([path]);
}

type Layout = Pick<WritableTensor, 'dtype' | 'shape'>;

function layOut<T extends Layout>(tensors: Iterable<readonly [string, T]>): (readonly [string, T])[] {
  const rank = ({ dtype, shape }: Layout): number =>
    byteLengthOf(dtype, shape) % alignment === 0 ? Infinity : byteLengthOf(dtype, []);
  const ordered = [...tensors].sort(([, a], [, b]) => (rank(a) === rank(b) ? 0 : rank(b) - rank(a)));
  if (new Set(ordered.map(([name]) => name)).size !== ordered.length)
    throw new Error('internal: two tensors of one name');
  return ordered;
}

/** Length, JSON and the spaces that bring the data to a multiple of 64 bytes. */
function headerOf(ordered: readonly (readonly [string, Layout])[], metadata: Readonly<Record<string, string>>): Buffer {
  let begin = 0;
  const entries = ordered.map(([name, { dtype, shape }]) => {
    const end = begin + byteLengthOf(dtype, shape);
    const entry = { dtype: codeOf.get(dtype), shape, data_offsets: [begin, end] };
    begin = end;
    return [name, entry] as const;
  });
  const json = Buffer.from(JSON.stringify(Object.fromEntries([['__metadata__', metadata], ...entries])));
  const headerBytes = Math.ceil((8 + json.length) / alignment) * alignment - 8;
  const header = Buffer.alloc(8 + headerBytes, ' ');
  header.writeBigUInt64LE(BigInt(headerBytes));
  json.copy(header, 8);
  return header;
}

/** Writes all bytes where the file stands; one write call carries less than 2 GiB. */
async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.byteLength;) {
    const { bytesWritten } = await file.write(bytes, done, Math.min(bytes.byteLength - done, maxWriteBytes));
    done += bytesWritten;
  }
}
