import { UserError } from '@blockwise/errors';
import { randomUUID } from 'node:crypto';
import { closeSync, fstatSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { dtypes, elementCount, type DType } from './dtypes.ts';
import { TensorUseError } from './errors.ts';
import { libc, type Pointer } from './library.ts';
import { byteLengthOf, RawTensor } from './raw-tensor.ts';
import { currentRuntime } from './current-runtime.ts';

const PROT_READ = 1;
const MAP_SHARED = 1;
const MADV_DONTNEED = 4;
const pageBytes = 4096;

/**
 * A file mapped read-only. Tensors over it take no anonymous memory: their pages come from the file when first used, and the system
 * may drop them again. Zero copy where a tensor's offset is a multiple of 64 bytes; TensorFlow copies it otherwise.
 */
export class MappedFile {
  private tensors = 0;
  private closing = false;

  private constructor(
    readonly path: string,
    readonly byteLength: number,
    private address: Pointer,
  ) {}

  /** Maps a whole file. Throws the system's error where it cannot be opened, a RangeError where it is empty. */
  static open(path: string): MappedFile {
    const file = openSync(path, 'r');
    try {
      const { size } = fstatSync(file);
      if (size === 0) throw new RangeError(`${path} is empty: nothing to map`);
      const address = libc.mmap(0, size, PROT_READ, MAP_SHARED, file, 0) as Pointer;
      if (address === -1) throw new Error(`${path}: the system refused to map ${size} bytes`);
      return new MappedFile(path, size, address);
    } finally {
      closeSync(file);
    }
  }

  /**
   * A tensor over `shape` elements from byte `offset`; its pages leave memory when it is disposed. The mapping lives until close() and the
   * disposal of every such tensor.
   * @param streamed its pages are dropped whenever a use is over, so that a model larger than memory passes through it
   */
  tensor(offset: number, shape: readonly number[], dtype: DType, { streamed = false } = {}): RawTensor {
    const bytes = elementCount(shape) * dtypes[dtype].bytes;
    if (this.closing) throw new TensorUseError(`${this.path} is closed`);
    if (![offset, ...shape].every((size) => Number.isSafeInteger(size) && size >= 0))
      throw new RangeError(`${this.path}: offset ${offset} and shape [${shape}] have to be whole numbers from 0`);
    if (offset + bytes > this.byteLength)
      throw new RangeError(`${this.path}: ${bytes} bytes at ${offset} reach past the file's ${this.byteLength}`);
    const handle = currentRuntime().createTensorAt(this.address + offset, bytes, shape, dtypes[dtype].code);
    this.tensors++;
    const onDispose = () => {
      this.drop(offset, bytes);
      this.tensors--;
      this.unmapIfUnused();
    };
    const streaming = { afterUse: () => this.drop(offset, bytes), successor: MappedFile.spill };
    return new RawTensor(handle, dtype, shape, onDispose, streamed ? streaming : undefined);
  }

  /**
   * A streamed tensor over a file of its own with the values of `values`, which is disposed. The file is in the folder of temporary files
   * (TMPDIR: let it be on a disk) and has no name, so it goes with the tensor, or the process.
   * @throws UserError where it cannot be written
   */
  static spill(this: void, values: RawTensor): RawTensor {
    const path = join(tmpdir(), `blockwise-${process.pid}-${randomUUID()}`);
    try {
      writeNew(path, values);
      const file = MappedFile.open(path);
      const tensor = file.tensor(0, values.shape, values.dtype, { streamed: true });
      file.close();
      values.dispose();
      return tensor;
    } finally {
      rmSync(path, { force: true });
    }
  }

  /** Tells the system that a part of the file will not be needed soon: its pages leave this process's resident memory. */
  drop(offset = 0, byteLength = this.byteLength - offset): void {
    if (!this.address) return;
    if (!(offset >= 0 && byteLength >= 0 && offset + byteLength <= this.byteLength))
      throw new RangeError(`${this.path}: ${byteLength} bytes at ${offset} reach past the file's ${this.byteLength}`);
    const first = Math.ceil(offset / pageBytes) * pageBytes;
    const last =
      offset + byteLength === this.byteLength
        ? this.byteLength
        : Math.floor((offset + byteLength) / pageBytes) * pageBytes;
    if (last > first) libc.madvise(this.address + first, last - first, MADV_DONTNEED);
  }

  /** Unmaps the file once the last tensor over it is disposed. */
  close(): void {
    this.closing = true;
    this.unmapIfUnused();
  }

  private unmapIfUnused(): void {
    if (!this.closing || this.tensors > 0 || !this.address) return;
    libc.munmap(this.address, this.byteLength);
    this.address = 0;
  }
}

/** Writes a file that only this user reads. */
function writeNew(path: string, values: RawTensor): void {
  let file: number | undefined;
  try {
    file = openSync(path, 'wx', 0o600);
    currentRuntime().write(values.id, file);
  } catch (error) {
    throw new UserError(
      `${path}: ${byteLengthOf(values)} bytes of a streamed weight cannot be written (${(error as NodeJS.ErrnoException).code}).\n  What to do: set TMPDIR to a folder on a disk with room for the trained weights, or leave out streaming.`,
    );
  } finally {
    if (file !== undefined) closeSync(file);
  }
}
