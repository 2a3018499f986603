import { type Backend, referenceBackend } from 'fp8-core';
import { kernelCases, runCase } from 'fp8-core/cases';

/** What the table of kernel cases found. */
export interface CheckResult {
  passed: number;
  /** Kernel, case and what disagreed, one a failed case. */
  failures: string[];
}

/**
 * Holds a backend to the whole table of kernel cases against the reference, each case with its tensors at the start of
 * their blocks and at an odd address.
 * @param kernel only the cases of this kernel
 */
export function checkCases(backend: Backend, kernel?: string): CheckResult {
  const oracle = referenceBackend();
  const result: CheckResult = { passed: 0, failures: [] };
  for (const c of kernelCases) {
    if (kernel && c.kernel !== kernel) continue;
    try {
      for (const offset of [0, 3]) runCase(c, backend, oracle, { offset });
      result.passed++;
    } catch (error) {
      const { message } = error as Error;
      result.failures.push(message.includes(c.name) ? message : `${c.kernel}, ${c.name}: ${message}`);
    }
  }
  return result;
}
