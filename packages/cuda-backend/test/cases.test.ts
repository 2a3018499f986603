import { referenceBackend } from 'fp8-core';
import { acceptedMisuse, kernelCases, runCase } from 'fp8-core/cases';
import { describe, expect, it } from 'vitest';
import type { CudaBackend } from '../src/backend.ts';
import { simulator } from './simulator.ts';

const { cuda, reason } = simulator();
const ref = referenceBackend();
const kernels = Array.from(new Set(kernelCases.map((c) => c.kernel)));

describe.skipIf(!cuda)(`the CUDA kernels on the simulated device ${reason}`, () => {
  it.each(kernels)('%s agrees with the reference, bounds checked', (kernel) => {
    const failures: string[] = [];
    for (const c of kernelCases) {
      if (c.kernel !== kernel) continue;
      for (const offset of [0, 3]) {
        try {
          runCase(c, cuda as CudaBackend, ref, { offset });
        } catch (error) {
          failures.push(`offset ${offset}: ${(error as Error).message}`);
        }
      }
    }
    expect(failures.slice(0, 4).join('\n'), `${failures.length} failed`).toBe('');
  });

  it('refuses every wrong argument by name', () => {
    expect(acceptedMisuse(cuda as CudaBackend)).toEqual([]);
  });
});
