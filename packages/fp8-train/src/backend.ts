import { cpuBackend, isCpuBackendBuilt } from 'cpu-backend';
import { cudaBackend } from 'cuda-backend';
import { type Backend, referenceBackend, UserError } from 'fp8-core';

/** Devices of the command line: `auto` is the CPU backend where it is built, else the reference backend. */
export type Device = 'auto' | 'cpu' | 'cuda' | 'ref';

/** @throws UserError if that device is not to be had here; the message says what to do */
export function backendFor(device: Device): Backend {
  switch (device) {
    case 'auto':
      return isCpuBackendBuilt() ? cpuBackend() : referenceBackend();
    case 'cpu':
      return cpuBackend();
    case 'ref':
      return referenceBackend();
    case 'cuda':
      return cudaBackend();
    default:
      throw new UserError(`device "${device as string}" is unknown; there are auto, cpu, cuda, ref`);
  }
}
