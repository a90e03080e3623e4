/** Allocations below this go to malloc, larger ones to the pool (tensorflow/core/common_runtime/mkl_cpu_allocator.h). */
const smallBytes = 256 * 1024;
/** Sizes in the pool are multiples of this. */
const granule = 256;
/** The pool's first region; each later one is twice as large. */
const firstRegionBytes = 2 * 2 ** 20;
/** A free chunk that would be left with more than this beyond a request is split, however small the request's share. */
const largestRemainder = 128 * 2 ** 20;
const pageBytes = 4096;

/** A stretch of a region: in use, or free and surrounded by used ones. */
interface Chunk {
  readonly region: Region;
  offset: number;
  bytes: number;
  used: boolean;
  before?: Chunk;
  after?: Chunk;
}

interface Region {
  readonly index: number;
  /** 1 for each page that was ever written. */
  readonly written: Uint8Array;
}

/** An allocation: a chunk of the pool, or bytes from malloc. */
export type Allocation = { readonly chunk?: Chunk; readonly bytes: number };

/**
 * TensorFlow's CPU allocator (best fit with coalescing, tensorflow/core/common_runtime/bfc_allocator.cc) without the memory: where
 * allocations would lie, and so how much of its regions is ever written. Regions are never given back, and a page once written stays
 * resident; that, not the sum of the tensors alive, is what a process is measured to hold.
 */
export class MemoryPool {
  private readonly regions: Region[] = [];
  private readonly free = new Set<Chunk>();
  private nextRegionBytes = firstRegionBytes;
  private small = 0;
  private smallPeak = 0;
  /** By who took it, the most that was taken from malloc for a moment: freed, it stays in the threads' arenas. */
  private readonly borrowed = new Map<string, number>();
  private writtenPages = 0;
  private regionBytes = 0;

  /** Bytes resident after all that happened so far, without bookkeeping. */
  get resident(): number {
    const borrowed = [...this.borrowed.values()].reduce((sum, bytes) => sum + bytes, 0);
    return this.writtenPages * pageBytes + this.smallPeak + borrowed;
  }

  /** Of each region the allocator writes down which chunk holds each granule, in 8 bytes (bfc_allocator.h, AllocationRegion). */
  get bookkeeping(): number {
    return (8 / granule) * this.regionBytes;
  }

  /** Takes bytes from malloc and frees them. */
  borrow(owner: string, bytes: number): void {
    this.borrowed.set(owner, Math.max(bytes, this.borrowed.get(owner) ?? 0));
  }

  allocate(bytes: number): Allocation {
    if (bytes < smallBytes) {
      this.small += bytes;
      this.smallPeak = Math.max(this.smallPeak, this.small);
      return { bytes };
    }
    const rounded = Math.ceil(bytes / granule) * granule;
    const chunk = this.bestFit(rounded) ?? this.extend(rounded);
    this.free.delete(chunk);
    if (chunk.bytes >= 2 * rounded || chunk.bytes - rounded >= largestRemainder) this.split(chunk, rounded);
    chunk.used = true;
    this.write(chunk, bytes);
    return { chunk, bytes };
  }

  release({ chunk, bytes }: Allocation): void {
    if (!chunk) {
      this.small -= bytes;
      return;
    }
    chunk.used = false;
    this.free.add(chunk);
    if (chunk.after && !chunk.after.used) this.merge(chunk, chunk.after);
    if (chunk.before && !chunk.before.used) this.merge(chunk.before, chunk);
  }

  /** The smallest free chunk that holds the bytes; of equal ones the first. */
  private bestFit(bytes: number): Chunk | undefined {
    let best: Chunk | undefined;
    for (const chunk of this.free) {
      if (chunk.bytes < bytes) continue;
      if (!best || chunk.bytes < best.bytes || (chunk.bytes === best.bytes && isBefore(chunk, best))) best = chunk;
    }
    return best;
  }

  private extend(bytes: number): Chunk {
    let grown = false;
    while (this.nextRegionBytes < bytes) {
      this.nextRegionBytes *= 2;
      grown = true;
    }
    const size = this.nextRegionBytes;
    if (!grown) this.nextRegionBytes *= 2;
    const region = { index: this.regions.length, written: new Uint8Array(size / pageBytes) };
    this.regions.push(region);
    this.regionBytes += size;
    return { region, offset: 0, bytes: size, used: false };
  }

  private split(chunk: Chunk, bytes: number): void {
    const { region, offset, after } = chunk;
    const rest: Chunk = {
      region,
      offset: offset + bytes,
      bytes: chunk.bytes - bytes,
      used: false,
      before: chunk,
      after,
    };
    if (after) after.before = rest;
    chunk.after = rest;
    chunk.bytes = bytes;
    this.free.add(rest);
  }

  private merge(lower: Chunk, upper: Chunk): void {
    this.free.delete(upper);
    lower.bytes += upper.bytes;
    lower.after = upper.after;
    if (upper.after) upper.after.before = lower;
  }

  private write({ region: { written }, offset }: Chunk, bytes: number): void {
    const pages = written.subarray(Math.floor(offset / pageBytes), Math.ceil((offset + bytes) / pageBytes));
    if (!pages.includes(0)) return;
    for (const page of pages) this.writtenPages += 1 - page;
    pages.fill(1);
  }
}

const isBefore = (a: Chunk, b: Chunk) =>
  a.region === b.region ? a.offset < b.offset : a.region.index < b.region.index;
