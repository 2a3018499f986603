import type { Group } from './group.ts';

/** One row of float64 numbers a rank, in group order; the same on all ranks. */
function gatherNumbers(group: Group, values: readonly number[]): Float64Array[] {
  const own = Float64Array.from(values);
  if (group.size === 1) return [own];
  const bytes = new Uint8Array(own.buffer);
  const all = new Uint8Array(bytes.length * group.size);
  group.allGather({ dtype: 'u8', data: all }, { dtype: 'u8', data: bytes }).wait();
  return group.ranks.map((_, i) => new Float64Array(all.buffer, i * bytes.length, values.length));
}

/** Sums a few numbers over ranks, in float64 and in rank order: all ranks get the same. */
export function sumNumbers(group: Group, values: readonly number[]): number[] {
  return gatherNumbers(group, values).reduce<number[]>(
    (sums, row) => sums.map((sum, i) => sum + row[i]),
    values.map(() => 0),
  );
}

/** The largest over ranks of each of a few numbers. */
export function maxNumbers(group: Group, values: readonly number[]): number[] {
  const rows = gatherNumbers(group, values);
  return values.map((_, i) => Math.max(...rows.map((row) => row[i])));
}
