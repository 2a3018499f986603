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
}

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
