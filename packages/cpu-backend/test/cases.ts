import { referenceBackend, UserError } from 'fp8-core';
import { acceptedMisuse, kernelCases, runCase } from 'fp8-core/cases';
import { describe, expect, it } from 'vitest';
import { type CpuBackend, cpuBackend } from '../src/backend.ts';

/**
 * Holds the CPU backend to the table of kernel cases under the given environment, on 1 and 2 threads, with tensors at the
 * start of their blocks and at odd addresses. The instruction set is chosen once a process, so each variant is a test file
 * of its own; what this machine cannot run, or has not built, is skipped with the backend's own reason.
 */
export function describeCases(environment: { FP8_ISA: 'generic' | 'avx2' | 'avx512'; FP8_GEMM?: 'fma' | 'dot' }): void {
  Object.assign(process.env, environment);
  const title = Object.entries(environment)
    .map((e) => e.join('='))
    .join(' ');
  let cpu: CpuBackend;
  try {
    cpu = cpuBackend();
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    describe.skip(`${title} (skipped: ${error.message})`, () => it('agrees with the reference', () => {}));
    return;
  }
  const ref = referenceBackend();
  const kernels = Array.from(new Set(kernelCases.map((c) => c.kernel)));

  describe.each([1, 2])(`${title}, %d threads`, (threads) => {
    it.each(kernels)('%s agrees with the reference', (kernel) => {
      expect(cpu.isa).toBe(environment.FP8_ISA);
      cpu.setThreads(threads);
      const failures: string[] = [];
      for (const c of kernelCases) {
        if (c.kernel !== kernel) continue;
        for (const offset of [0, 3]) {
          try {
            runCase(c, cpu, ref, { offset });
          } catch (error) {
            failures.push(`offset ${offset}: ${(error as Error).message}`);
          }
        }
      }
      expect(failures.join('\n')).toBe('');
    });
  });

  it(`${title}: refuses every wrong argument by name`, () => {
    expect(acceptedMisuse(cpu)).toEqual([]);
  });
}
