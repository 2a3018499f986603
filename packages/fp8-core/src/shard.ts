// A rank's part of a tensor that is cut along one dim, and how to get from the whole to the part and back: initial values,
// checkpoints and imports all go through here, so a layout is described in one place.
import { type Shape, sizeOf } from './tensor.ts';

/** [begin, end) */
export type Range = readonly [begin: number, end: number];

/** Which part of a tensor is here. */
export interface Shard {
  /** Of the whole tensor. */
  readonly shape: Shape;
  /** The dim that is cut; the last two dims of a matrix, or the one of a vector. */
  readonly dim: 0 | 1;
  /** Ranges of that dim, ascending; fused weights have several: q, k and v heads of a rank are three. */
  readonly ranges: readonly Range[];
  /** The ranks that hold the parts together: needed where one scale serves the whole tensor. */
  readonly group: ShardGroup;
}

/** What core needs of the group of ranks that share a tensor; core itself knows no network. */
export interface ShardGroup {
  readonly size: number;
  readonly rank: number;
  /** Every element becomes its maximum over the ranks. */
  reduceMax(values: Float32Array): void;
}

/**
 * The part of `ranges` of dim `dim`.
 * @throws RangeError if the ranges are not ascending, disjoint and inside the dim
 */
export function makeShard(shape: Shape, dim: 0 | 1, ranges: readonly Range[], group: ShardGroup): Shard {
  let last = 0;
  for (const [begin, end] of ranges) {
    if (!(Number.isInteger(begin) && Number.isInteger(end) && begin >= last && begin < end && end <= shape[dim])) {
      throw new RangeError(
        `shard: ranges ${ranges.map((r) => `[${r}]`).join(' ')} of dim ${dim} of [${shape}]; need whole, ascending, disjoint, not empty`,
      );
    }
    last = end;
  }
  return { shape, dim, ranges, group };
}

const lengthOf = (ranges: readonly Range[]): number => ranges.reduce((n, [begin, end]) => n + end - begin, 0);

/** Shape of the part. */
export const shardShape = ({ shape, dim, ranges }: Pick<Shard, 'shape' | 'dim' | 'ranges'>): Shape =>
  shape.map((n, d) => (d === dim ? lengthOf(ranges) : n));

/** A run of consecutive elements of the whole tensor and where it lies in the part. */
export interface ShardRun {
  readonly whole: number;
  readonly local: number;
  readonly length: number;
}

/** The part as runs of elements, in the order in which the part stores them. */
export function* shardRuns({ shape, dim, ranges }: Pick<Shard, 'shape' | 'dim' | 'ranges'>): Generator<ShardRun> {
  const inner = sizeOf(shape.slice(dim + 1));
  const outer = sizeOf(shape.slice(0, dim));
  const stride = shape[dim] * inner;
  let local = 0;
  for (let o = 0; o < outer; o++) {
    for (const [begin, end] of ranges) {
      const length = (end - begin) * inner;
      yield { whole: o * stride + begin * inner, local, length };
      local += length;
    }
  }
}

/**
 * Cuts the part out of the whole tensor's bytes.
 * @param width bytes of one element
 */
export function sliceShard(
  shard: Pick<Shard, 'shape' | 'dim' | 'ranges'>,
  whole: Uint8Array,
  width: number,
): Uint8Array {
  checkBytes('sliceShard', whole, shard.shape, width);
  const part = new Uint8Array(sizeOf(shardShape(shard)) * width);
  for (const { whole: at, local, length } of shardRuns(shard)) {
    part.set(whole.subarray(at * width, (at + length) * width), local * width);
  }
  return part;
}

/** Puts a part into the whole tensor's bytes, in place; the counterpart of `sliceShard`. */
export function mergeShard(
  shard: Pick<Shard, 'shape' | 'dim' | 'ranges'>,
  whole: Uint8Array,
  part: Uint8Array,
  width: number,
): void {
  checkBytes('mergeShard', whole, shard.shape, width);
  for (const { whole: at, local, length } of shardRuns(shard)) {
    whole.set(part.subarray(local * width, (local + length) * width), at * width);
  }
}

function checkBytes(what: string, bytes: Uint8Array, shape: Shape, width: number): void {
  if (bytes.length !== sizeOf(shape) * width)
    throw new RangeError(`${what}: ${bytes.length} bytes for [${shape}] of ${width} bytes each`);
}
