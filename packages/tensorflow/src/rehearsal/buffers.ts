import { elementCount } from '../dtypes.ts';
import { MemoryPool, type Allocation } from './memory-pool.ts';

/** The memory behind tensors, shared by all that look at it. */
export interface TensorBuffer {
  readonly bytes: number;
  references: number;
  /** None where the bytes are a mapped file's. */
  readonly allocation?: Allocation;
  /** Of a mapped file's bytes: how many were read, whose pages are resident. */
  read?: number;
}

/** Bytes of a mapped file that one read brings in at least: Linux maps the pages around the one that is missing (fault_around_bytes). */
const readAround = 64 * 1024;

/** Counts references; a buffer that nobody looks at goes back to the pool. */
export class Buffers {
  readonly pool = new MemoryPool();
  /** Bytes of mapped files that tensors look at, and how many of them were read. */
  mapped = 0;
  read = 0;

  /** A new buffer with one reference. */
  create(bytes: number): TensorBuffer {
    return { bytes, references: 1, allocation: this.pool.allocate(bytes) };
  }

  /** A stretch of a mapped file. */
  map(bytes: number): TensorBuffer {
    this.mapped += bytes;
    return { bytes, references: 1, read: 0 };
  }

  /** An operation reads its inputs: GatherV2 rows of the first, as many as it has indices, others all of each. */
  look(type: string, inputs: readonly { buffer?: TensorBuffer; shape: readonly number[] }[]): void {
    inputs.forEach(({ buffer, shape }, i) => {
      if (buffer?.read === undefined) return;
      const isTable = type === 'GatherV2' && i === 0;
      // Each index another row: a run meets most of the vocabulary.
      const perRow = Math.max(readAround, buffer.bytes / shape[0]);
      const wanted = isTable ? perRow * elementCount(inputs[1]?.shape ?? []) : buffer.bytes;
      const more = Math.min(wanted, buffer.bytes - buffer.read);
      buffer.read += more;
      this.read += more;
    });
  }

  /** The same buffer with one more reference. */
  share(buffer: TensorBuffer): TensorBuffer {
    buffer.references++;
    return buffer;
  }

  drop(buffer: TensorBuffer): void {
    if (--buffer.references > 0) return;
    if (buffer.allocation) this.pool.release(buffer.allocation);
    else {
      this.mapped -= buffer.bytes;
      this.read -= buffer.read ?? 0;
    }
  }
}
