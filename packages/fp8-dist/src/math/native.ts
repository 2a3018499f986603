// The native arithmetic and memory of a rank, as the CPU backend's addon offers them.
import { createRequire } from 'node:module';
import { type DType, dtypes } from 'fp8-core';
import type { CommMath, ReduceOp } from './math.ts';

/** The functions of the addon that communication uses; all take views and check their sizes. */
export interface CommAddon {
  commReduce(
    dst: Uint8Array,
    parts: readonly Uint8Array[],
    dtype: number,
    op: number,
    scale: number,
    steps: number,
  ): void;
  commRescale(dst: Uint8Array, src: Uint8Array, dtype: number, ratio: number): void;
  /** The bytes of a tensor, in place. They must not be used after the tensor is freed. */
  bytes(handle: number): ArrayBuffer;
  /** Anonymous shared memory of this process: its descriptor, and the memory. */
  arenaCreate(bytes: number): { fd: number; memory: ArrayBuffer };
  /** Maps the arena of another process of the same user, read only in intent. Throws if it cannot. */
  arenaMap(pid: number, fd: number, bytes: number): ArrayBuffer;

  // Lanes (lane/lane.ts; native/comm_lane.h). A lane is a number that is valid in every thread.
  /** Makes this rank's block of shared memory; `spinNs`: how long to look before sleeping. */
  laneCreate(rank: number, spinNs: number): { lane: number; fd: number };
  /** Maps the block of another process of the same user, read only. Throws if it cannot. */
  laneConnect(lane: number, rank: number, pid: number, fd: number): void;
  /** A group's channel; `places`: which of its channels each member uses for it. */
  laneJoin(lane: number, ranks: number[], places: number[], chunkBytes: number, eagerBytes: number): number;
  /** The first word of `words` is not 0 once communication has failed. */
  laneWatch(lane: number, words: Int32Array): void;
  /** `numbers`: seq, code, dtype, reduce, flags, root, shape. All memory must stay until it is done or cancelled. */
  lanePost(
    lane: number,
    channel: number,
    numbers: Float64Array,
    inputs: readonly LaneRegion[],
    outputs: readonly LaneRegion[] | null,
    bounds: Float64Array,
    scales: Float32Array | null,
  ): void;
  /** 0 done, 1 not yet, 2 communication has failed, 3 trouble with a member. */
  laneWait(lane: number, channel: number, seq: number, ms: number): 0 | 1 | 2 | 3;
  laneDone(lane: number, channel: number, seq: number): boolean;
  /** Members that have not announced the operation. */
  laneAbsent(lane: number, channel: number, seq: number): number[];
  laneTrouble(lane: number, channel: number): { member: number; text: string; head: Buffer | null };
  /** Forgets all operations: their memory is touched no more. */
  laneCancel(lane: number): void;
  laneClose(lane: number): void;
  laneTraffic(lane: number): [sent: number, received: number];
}

/** The handle of a tensor of the CPU backend, or a typed array. */
export type LaneRegion = number | ArrayBufferView;

const opNumbers: Record<ReduceOp, number> = { sum: 0, max: 1, min: 2 };

/** The addon, or null when it is missing or older than these functions. */
export function loadCommAddon(path: string | null): CommAddon | null {
  if (!path) return null;
  try {
    const addon = createRequire(import.meta.url)(path) as CommAddon;
    return typeof addon.commReduce === 'function' ? addon : null;
  } catch {
    return null;
  }
}

export function nativeMath(addon: CommAddon): CommMath {
  const code = (dtype: DType) => dtypes[dtype].code;
  return {
    reduce: (dst, parts, dtype, op, scale, steps) =>
      addon.commReduce(dst, parts, code(dtype), opNumbers[op], scale, steps ? 1 : 0),
    rescale: (dst, src, dtype, ratio) => addon.commRescale(dst, src, code(dtype), ratio),
  };
}
