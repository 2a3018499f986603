import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { UserError } from 'fp8-core';
import { type CudaBackend, cudaBackend } from '../src/backend.ts';

/** The simulated device, built first if its sources changed; or the reason why there is none. */
export function simulator(): { cuda: CudaBackend; reason: '' } | { cuda: null; reason: string } {
  process.env.FP8_CUDA = 'sim';
  const build = fileURLToPath(new URL('../build.mjs', import.meta.url));
  const { status, stderr } = spawnSync(process.execPath, [build, '--sim'], { encoding: 'utf8' });
  if (/no C\+\+ compiler/.test(stderr)) return { cuda: null, reason: `skipped: ${stderr.trim()}` };
  if (status !== 0) throw new Error(`the simulated device does not build:\n${stderr}`);
  try {
    return { cuda: cudaBackend(), reason: '' };
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return { cuda: null, reason: `skipped: ${error.message}` };
  }
}
