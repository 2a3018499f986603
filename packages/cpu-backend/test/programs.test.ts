// The native programs check the kernels against float64 and scalar code, on buffers with guards, on every instruction set of this
// CPU: what the case table cannot say, such as every code of a format or gradients by finite differences.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, test } from 'vitest';
import { isCpuBackendBuilt } from '../src/backend.ts';

const run = promisify(execFile);
const here = (path: string): string => fileURLToPath(new URL(`../${path}`, import.meta.url));
const minutes = 60_000;

describe.skipIf(!isCpuBackendBuilt())('the native programs', () => {
  beforeAll(() => run(process.execPath, [here('build.mjs'), '--bench']), 10 * minutes);

  test.each([
    ['gemm_bench', /^ok$/m],
    ['attention_bench', /^all checks passed$/m],
    ['kernels_bench', /^\S+ +all checks passed$/m],
  ])(
    '%s finds no difference',
    async (program, verdict) => {
      const { stdout } = await run(here(`build/${program}`), ['--check'], { maxBuffer: 1 << 24 });
      expect(stdout).toMatch(verdict);
    },
    10 * minutes,
  );
});
