import { spawnSync } from 'node:child_process';
import { cpuBackend, isCpuBackendBuilt } from 'cpu-backend';
import { empty, referenceBackend, recipes, scope } from 'fp8-core';
import { oneLine } from '../errors.ts';
import type { Check } from './doctor.ts';

const install = 'Debian and Ubuntu: apt-get install g++';

/** Compiler, native backend, recipes, message library. */
export async function backendChecks(): Promise<Check[]> {
  return [compiler(), native(), recipeNames(), await zeromq()];
}

function compiler(): Check {
  const tried = process.env.CXX ? [process.env.CXX] : ['g++', 'clang++', 'c++'];
  for (const name of tried) {
    const { status, stdout } = spawnSync(name, ['--version'], { encoding: 'utf8' });
    if (status === 0) return { name: 'C++ compiler', state: 'ok', found: `${name}: ${stdout.split('\n')[0]}` };
  }
  const found = `none of ${tried.join(', ')} runs`;
  // An addon that is built already needs none.
  return { name: 'C++ compiler', state: isCpuBackendBuilt() ? 'absent' : 'missing', found, advice: install };
}

function native(): Check {
  const name = 'CPU backend';
  if (!isCpuBackendBuilt()) {
    const found = 'not built; the reference backend (slow, for tests) would be used';
    return { name, state: 'missing', found, advice: 'run `npm run setup` in the repository' };
  }
  try {
    const backend = cpuBackend();
    const sum = addsUp(backend);
    if (sum !== 6) throw new Error(`a kernel gave ${sum} instead of 6`);
    const peak = `${backend.peakGflops('bf16', 0.05).toFixed(0)} GFLOP/s peak in bf16`;
    return {
      name,
      state: 'ok',
      found: `${backend.describe()}, ${peak}, ${backend.peakGflops('f32', 0.05).toFixed(0)} in f32`,
    };
  } catch (error) {
    const found = oneLine((error as Error).message);
    return { name, state: 'missing', found, advice: 'run `npm run build:native` in the repository' };
  }
}

/** A kernel call end to end: 1 + 2 + 3. */
function addsUp(backend: ReturnType<typeof referenceBackend>): number {
  return scope(() => {
    const [x, y] = [empty(backend, [3], 'f32'), empty(backend, [1], 'f32')];
    backend.write(x.handle, new Uint8Array(Float32Array.of(1, 2, 3).buffer));
    backend.kernels.sum({ y, x, n: 3, alpha: 1 });
    const result = new Float32Array(1);
    backend.read(y.handle, new Uint8Array(result.buffer));
    return result[0];
  });
}

function recipeNames(): Check {
  const found = Object.keys(recipes).join(', ');
  return { name: 'recipes', state: 'ok', found };
}

/** Several processes will talk through it; one process does not need it. */
async function zeromq(): Promise<Check> {
  const name = 'zeromq';
  try {
    const module = (await import('zeromq' as string)) as { version?: string };
    return { name, state: 'ok', found: `loads (libzmq ${module.version ?? 'of unknown version'})` };
  } catch (error) {
    const isAbsent = (error as NodeJS.ErrnoException).code === 'ERR_MODULE_NOT_FOUND';
    const found = isAbsent ? 'not installed' : `does not load: ${oneLine((error as Error).message)}`;
    return { name, state: 'absent', found, advice: 'only training in several processes would need it' };
  }
}
