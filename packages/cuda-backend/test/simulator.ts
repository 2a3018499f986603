import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { UserError } from 'fp8-core';
import { type CudaBackend, cudaBackend } from '../src/backend.ts';

/** The simulated device, built first if its sources changed; or the reason why there is none. */
export function simulator(): { cuda: CudaBackend; reason: '' } | { cuda: null; reason: string } {
  process.env.FP8_CUDA = 'sim';
  const build = fileURLToPath(new URL('../build.mjs', import.meta.url));
  const compiler = ['CXX' in process.env ? process.env.CXX : null, 'g++', 'clang++', 'c++'].find(
    (name) => name && spawnSync(name, ['--version']).status === 0,
  );
  if (!compiler) return { cuda: null, reason: 'skipped: no C++ compiler to build the simulated device with' };
  const { status, stderr } = spawnSync(process.execPath, [build, '--sim'], { encoding: 'utf8' });
  if (status !== 0) throw new Error(`the simulated device does not build:\n${stderr}`);
  try {
    return { cuda: cudaBackend(), reason: '' };
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return { cuda: null, reason: `skipped: ${error.message}` };
  }
}
