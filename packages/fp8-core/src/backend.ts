import type { DType } from './dtype.ts';
import type { Kernels } from './kernels.gen.ts';

/** Bytes of one backend: `live` in tensors now, `peak` of live since the last reset, `reserved` from the system. */
export interface BackendMemory {
  live: number;
  peak: number;
  reserved: number;
}

/**
 * Memory and kernels; knows no gradients and no shapes. A handle is a small integer that names bytes with a dtype, and for
 * scaled dtypes a scale block; a handle that was freed throws when used. `view` shares the bytes and the scale block of its
 * base and keeps them alive.
 */
export interface Backend {
  readonly name: 'ref' | 'null' | 'cpu' | 'cuda';
  /** One line for people: instruction set, threads, device. */
  describe(): string;
  /** Uninitialised; a scale block starts as [1, 1, 0, 0]. */
  alloc(dtype: DType, size: number): number;
  view(handle: number, offset: number, size: number): number;
  free(handle: number): void;
  /** Copies raw bytes into the tensor, from element 0. @throws RangeError if they do not fit exactly */
  write(handle: number, bytes: Uint8Array): void;
  read(handle: number, into: Uint8Array): void;
  copy(to: number, from: number): void;
  readScale(handle: number): Float32Array;
  writeScale(handle: number, block: Float32Array): void;
  /** Waits until all queued work is done (a no-op where kernels are synchronous). */
  synchronize(): void;
  memory(): BackendMemory;
  resetPeak(): void;
  /** Gives cached free memory back to the system. */
  trim(): void;
  /** Bytes that one operation may take for a while where more makes it faster; 64 MiB where it is not said. */
  readonly scratchBytes?: number;
  /** Products whose rows do not begin at multiples of as many elements are far slower; 1 where it is not said. */
  readonly rowUnit?: number;
  /** True where FP8 products read both operands along k: a cast of what is read both ways writes the transpose too. */
  readonly castsBothWays?: boolean;
  /** True where moving bytes costs more than holding them: a weight cast to FP8 in forward is kept for backward. */
  readonly keepsCasts?: boolean;
  /** What holds a weight's gradient between its product, summed in float32, and its cast to FP8; f32 where it is not said. */
  readonly wideGradient?: 'f32' | 'bf16';
  readonly kernels: Kernels;
}
