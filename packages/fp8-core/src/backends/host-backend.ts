import type { Backend } from '../backend.ts';
import { type CellKernels, checkedKernels } from './check.ts';
import { HostMemory } from './host.ts';

/** A backend in TypeScript: host memory and checked kernels; without `run` it keeps no bytes and computes nothing. */
export function hostBackend(name: 'ref' | 'null', description: string, run: CellKernels | null): Backend {
  const memory = new HostMemory(run !== null);
  return {
    name,
    describe: () => description,
    alloc: (dtype, size) => memory.alloc(dtype, size),
    view: (handle, offset, size) => memory.view(handle, offset, size),
    free: (handle) => memory.free(handle),
    write: (handle, bytes) => memory.write(handle, bytes),
    read: (handle, into) => memory.read(handle, into),
    copy: (to, from) => memory.copy(to, from),
    readScale: (handle) => memory.readScale(handle),
    writeScale: (handle, block) => memory.writeScale(handle, block),
    synchronize: () => {},
    memory: () => memory.memory(),
    resetPeak: () => memory.resetPeak(),
    trim: () => {},
    kernels: checkedKernels(memory, run),
  };
}
