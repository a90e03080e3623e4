const { fround } = Math;

/**
 * The 256 numbers of bitsandbytes' dynamic 8-bit type (arXiv 1511.04561; create_dynamic_map), ascending: seven decades 10^-6 to 1, each with
 * twice as many evenly spaced numbers as the one below it, and 0 and 1. Signed ones have half as many of either sign, and no -1.
 */
export function dynamicMap(signed: boolean): Float32Array {
  const values = [0, 1];
  for (let decade = 0; decade < 7; decade++) {
    const unit = fround(10 ** (decade - 6));
    const boundaries = linspace(0.1, 1, 2 ** (signed ? decade : decade + 1));
    for (let i = 1; i < boundaries.length; i++) {
      const mean = fround(fround(boundaries[i - 1] + boundaries[i]) / 2);
      values.push(unit * mean);
      if (signed) values.push(-unit * mean);
    }
  }
  return Float32Array.from(values).sort();
}

/** torch.linspace in float32, `intervals` + 1 numbers: counted from the nearer end. */
function linspace(first: number, last: number, intervals: number): number[] {
  const [start, end] = [fround(first), fround(last)];
  const step = fround(fround(end - start) / intervals);
  const below = (intervals + 1) >> 1;
  return Array.from({ length: intervals + 1 }, (_, i) =>
    fround(i < below ? start + step * i : end - step * (intervals - i)),
  );
}

/** Entries of a table of nearest codes. */
export const tableSize = 65536;

/**
 * The nearest code of each of 65536 evenly spaced numbers of [-1, 1]: what bitsandbytes looks codes up in (csrc/cpu_ops.cpp,
 * build_quantize_lut). A number halfway between two of the map gets the lower code.
 * @param code the map, ascending
 */
export function nearestCodes(code: Float32Array): Uint8Array {
  const table = new Uint8Array(tableSize);
  let nearest = 0;
  for (let i = 0; i < tableSize; i++) {
    const value = fround(-1 + fround((2 * i) / (tableSize - 1)));
    while (nearest < code.length - 1 && fround(code[nearest] + code[nearest + 1]) / 2 < value) nearest++;
    table[i] = nearest;
  }
  return table;
}
