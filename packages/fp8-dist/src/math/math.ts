import type { DType } from 'fp8-core';

export type ReduceOp = 'sum' | 'max' | 'min';

/** The arithmetic of collectives on raw bytes. All arrays of one call hold the same number of elements. */
export interface CommMath {
  /**
   * dst = encode(scale * (parts[0] op parts[1] op …)), summing in f32 (i32 in wrapping i32) from left to right and rounding
   * once, saturating; with `steps`, rounding to the dtype after every addition, as a reduction of FP8 NCCL does.
   */
  reduce(
    dst: Uint8Array,
    parts: readonly Uint8Array[],
    dtype: DType,
    op: ReduceOp,
    scale: number,
    steps: boolean,
  ): void;
  /** dst = encode(ratio * src), to nearest, saturating; dst may be src. */
  rescale(dst: Uint8Array, src: Uint8Array, dtype: DType, ratio: number): void;
}
