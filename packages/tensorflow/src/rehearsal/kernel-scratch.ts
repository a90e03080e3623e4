import { dear, elementwise, products, reductions, views } from '../fusion/operation-kinds.ts';
import type { TracedNode } from '../fusion/traced-function.ts';

/** A value that a kernel writes: when it exists, and the written ones that it takes the place of, each element of one in the place of its own. */
interface Written {
  readonly bytes: number;
  readonly isResult: boolean;
  readonly made: number;
  lastRead: number;
  readonly inPlace: Set<Written>;
}

/**
 * Bytes that a kernel takes while it runs, as XLA plans them. Its values are made by their depth, whatever is ready first; one lives until it is
 * read last. The largest are placed first: in a result's memory while the result does not exist yet, else where no other value lives.
 */
export function scratchBytes({ kernel = [], outputs }: TracedNode, bytesOf: (id: number) => number): number {
  const values = writtenValues(kernel, new Set(outputs), bytesOf);
  const meet = (a: Written, b: Written) => {
    const [first, second] = a.made < b.made ? [a, b] : [b, a];
    return first.lastRead > second.made || (first.lastRead === second.made && !second.inPlace.has(first));
  };
  const hosts = values.filter(({ isResult }) => isResult).map((result) => [result]);
  const placed: { value: Written; from: number; to: number }[] = [];
  const others = values.filter(({ isResult }) => !isResult).sort((a, b) => b.bytes - a.bytes);
  for (const value of others) {
    const host = hosts.find((guests) => value.bytes <= guests[0].bytes && !guests.some((guest) => meet(guest, value)));
    if (host) host.push(value);
    else {
      const around = placed.filter((other) => meet(other.value, value)).sort((a, b) => a.from - b.from);
      let from = 0;
      for (const other of around) if (other.from < from + value.bytes) from = Math.max(from, other.to);
      placed.push({ value, from, to: from + value.bytes });
    }
  }
  return Math.max(0, ...placed.map(({ to }) => to));
}

/** What a kernel writes, results included, in the order in which XLA makes it. */
function writtenValues(
  kernel: readonly TracedNode[],
  results: ReadonlySet<number>,
  bytesOf: (id: number) => number,
): Written[] {
  const written = writtenDown(kernel, results);
  /** Of each value: the written ones that it is made of, with none written in between; those of them whose elements keep their places; its depth. */
  const origins = new Map<number, { own: Set<number>; inPlace: Set<number>; depth: number }>();
  const made: { id: number; depth: number; own: Set<number>; inPlace: Set<number> }[] = [];
  for (const { type, inputs, outputs } of kernel) {
    const given = inputs.flatMap((id) => origins.get(id) ?? []);
    const own = new Set(given.flatMap(({ own }) => [...own]));
    const keepsPlaces = elementwise.has(type) || type === 'Reshape' || type === 'Identity';
    const moved = new Set(given.flatMap(({ own, inPlace }) => [...own].filter((id) => !inPlace.has(id))));
    const inPlace = new Set(keepsPlaces ? [...own].filter((id) => !moved.has(id)) : []);
    const depth = Math.max(0, ...given.map(({ depth }) => depth));
    for (const id of outputs) {
      const isWritten = written.has(id) || results.has(id) || reductions.has(type);
      if (isWritten) made.push({ id, depth, own, inPlace });
      const itself = new Set([id]);
      origins.set(id, isWritten ? { own: itself, inPlace: itself, depth: depth + 1 } : { own, inPlace, depth });
    }
  }
  const values = new Map<number, Written>();
  made.sort((a, b) => a.depth - b.depth);
  made.forEach(({ id, own, inPlace }, i) => {
    for (const source of own) {
      const value = values.get(source)!;
      value.lastRead = Math.max(value.lastRead, i);
    }
    const bytes = bytesOf(id);
    const replaced = [...inPlace].map((source) => values.get(source)!).filter((value) => value.bytes === bytes);
    const isResult = results.has(id);
    values.set(id, { bytes, isResult, made: i, lastRead: isResult ? Infinity : i, inPlace: new Set(replaced) });
  });
  return [...values.values()];
}

/**
 * What XLA writes down within a kernel beside its results: what it is going to multiply, the products, and what is dear to make and serves several
 * of those.
 */
function writtenDown(kernel: readonly TracedNode[], results: ReadonlySet<number>): Set<number> {
  const made = new Set(kernel.filter(({ type }) => !views.has(type)).flatMap(({ outputs }) => outputs));
  const factors = kernel.filter(({ type }) => products.has(type)).flatMap(({ inputs, outputs }) => [...inputs, ...outputs]); // prettier-ignore
  const written = new Set(factors.filter((id) => made.has(id) && !results.has(id)));
  /** Of each value, the results, written and reduced values that are made of it with none of these in between. */
  const served = new Map<number, Set<number>>();
  for (const { type, inputs, outputs } of [...kernel].reverse()) {
    const ends = outputs.map((id) => served.get(id) ?? new Set<number>());
    if (dear.has(type) && ends[0].size > 1 && !results.has(outputs[0])) written.add(outputs[0]);
    const own = outputs.flatMap((id, i) => (written.has(id) || results.has(id) || reductions.has(type) ? [id] : [...ends[i]])); // prettier-ignore
    for (const id of inputs) served.set(id, new Set([...(served.get(id) ?? []), ...own]));
  }
  return written;
}
