import { referenceBackend } from 'fp8-core';
import { kernelCases, runCase } from 'fp8-core/cases';
import type { CudaBackend } from './backend.ts';

/** What the table of kernel cases found. */
export interface CheckResult {
  passed: number;
  /** Kernel, case and what disagreed, one a failed case. */
  failures: string[];
}

/**
 * FP8 tensor cores align the products of a sum to the largest and keep about 13 bits below it (DeepSeek-V3 report, 3.3.2), fast
 * accumulation or not. On an H200 the worst of the table is off by 2^-11.8 of the largest result.
 */
const tensorCoreSums = 2 ** -11;

/**
 * Holds a backend to the whole table of kernel cases against the reference, each case with its tensors at the start of
 * their blocks and at an odd address.
 * @param kernel only the cases of this kernel
 */
export function checkCases(backend: CudaBackend, kernel?: string): CheckResult {
  const oracle = referenceBackend();
  const fp8Sums = backend.fp8 && !backend.simulated ? tensorCoreSums : 0;
  const result: CheckResult = { passed: 0, failures: [] };
  for (const c of kernelCases) {
    if (kernel && c.kernel !== kernel) continue;
    try {
      for (const offset of [0, 3]) runCase(c, backend, oracle, { offset, fp8Sums });
      result.passed++;
    } catch (error) {
      const { message } = error as Error;
      result.failures.push(message.includes(c.name) ? message : `${c.kernel}, ${c.name}: ${message}`);
    }
  }
  return result;
}
