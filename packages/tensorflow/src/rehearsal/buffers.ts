import { MemoryPool, type Allocation } from './memory-pool.ts';

/** The memory behind tensors, shared by all that look at it. */
export interface TensorBuffer {
  readonly bytes: number;
  references: number;
  /** None where the bytes are a mapped file's. */
  readonly allocation?: Allocation;
}

/** Counts references; a buffer that nobody looks at goes back to the pool. */
export class Buffers {
  readonly pool = new MemoryPool();
  /** Bytes of mapped files that tensors look at. */
  mapped = 0;

  /** A new buffer with one reference. */
  create(bytes: number): TensorBuffer {
    return { bytes, references: 1, allocation: this.pool.allocate(bytes) };
  }

  /** A stretch of a mapped file. */
  map(bytes: number): TensorBuffer {
    this.mapped += bytes;
    return { bytes, references: 1 };
  }

  /** The same buffer with one more reference. */
  share(buffer: TensorBuffer): TensorBuffer {
    buffer.references++;
    return buffer;
  }

  drop(buffer: TensorBuffer): void {
    if (--buffer.references > 0) return;
    if (buffer.allocation) this.pool.release(buffer.allocation);
    else this.mapped -= buffer.bytes;
  }
}
