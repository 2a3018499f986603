import type { Backend, BackendMemory } from '../backend.ts';
import { type DType, dtypes } from '../dtype.ts';
import { bindKernels, type NativeKernels } from '../kernels.gen.ts';

/** Calls and milliseconds by name. */
export type Profile = Record<string, [calls: number, ms: number]>;

/** What every native addon exports: `install` of fp8-kernels/native/addon.h. */
export interface NativeAddon {
  alloc(dtype: number, size: number): number;
  view(handle: number, offset: number, size: number): number;
  free(handle: number): void;
  write(handle: number, bytes: ArrayBufferView): void;
  read(handle: number, into: ArrayBufferView): void;
  writeScale(handle: number, block: Float32Array): void;
  readScale(handle: number, block: Float32Array): void;
  copy(to: number, from: number): void;
  memory(): BackendMemory;
  resetPeak(): void;
  trim(): void;
  synchronize(): void;
  /** Host time of each kernel since the last reset. */
  profile(): Profile;
  resetProfile(): void;
  kernels: NativeKernels;
}

/** Memory and kernels of a native addon; the backend adds its name and what only its device can tell. */
export const nativeBackend = (addon: NativeAddon) =>
  ({
    alloc: (dtype: DType, size: number) => addon.alloc(dtypes[dtype].code, size),
    view: addon.view,
    free: addon.free,
    write: addon.write,
    read: addon.read,
    copy: addon.copy,
    readScale(handle: number) {
      const block = new Float32Array(4);
      addon.readScale(handle, block);
      return block;
    },
    writeScale: addon.writeScale,
    synchronize: addon.synchronize,
    memory: addon.memory,
    resetPeak: addon.resetPeak,
    trim: addon.trim,
    kernels: bindKernels(addon.kernels),
  }) satisfies Omit<Backend, 'name' | 'describe'>;
