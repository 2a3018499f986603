// What --device cuda needs, each part on its own, as each is installed separately: driver, toolkit (to build the addon),
// cuBLASLt, and the addon itself, which is loaded where it was built and asked what it found.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { cudaAddonPath, cudaBackend, isCudaBackendBuilt } from 'cuda-backend';
import { oneLine } from '../errors.ts';
import type { Check } from './doctor.ts';

const libraryFolders = (): string[] => [
  ...(process.env.LD_LIBRARY_PATH ?? '').split(':').filter((folder) => folder !== ''),
  ...toolkits().flatMap((home) => [join(home, 'lib64'), join(home, 'targets/x86_64-linux/lib')]),
  '/usr/lib/x86_64-linux-gnu',
  '/usr/lib/aarch64-linux-gnu',
  '/usr/lib64',
  '/usr/lib/wsl/lib',
];

/** Driver, toolkit, cuBLASLt, the addon. */
export function cudaChecks(): Check[] {
  return [driver(), toolkit(), cublas(), addon()];
}

function addon(): Check {
  const name = 'CUDA backend';
  if (!isCudaBackendBuilt()) {
    const advice = `${optional}: node packages/cuda-backend/build.mjs --device, or --sim for the simulated device (FP8_CUDA=sim)`;
    return { name, state: 'absent', found: `${cudaAddonPath()} is not built`, advice };
  }
  try {
    const backend = cudaBackend();
    return { name, state: 'ok', found: `${backend.describe()}; cuBLASLt: ${backend.cublaslt}` };
  } catch (error) {
    return { name, state: 'absent', found: oneLine((error as Error).message), advice: optional };
  }
}

function driver(): Check {
  const name = 'NVIDIA driver';
  const query = ['--query-gpu=name,driver_version', '--format=csv,noheader'];
  const { status, stdout } = spawnSync('nvidia-smi', query, { encoding: 'utf8', timeout: 5000 });
  if (status === 0 && stdout.trim() !== '') return { name, state: 'ok', found: stdout.trim().replaceAll('\n', '; ') };
  const library = findLibrary(/^libcuda\.so/);
  if (library) return { name, state: 'absent', found: `${library}, but nvidia-smi shows no GPU`, advice: optional };
  return {
    name,
    state: 'absent',
    found: `no libcuda.so in ${libraryFolders().join(', ')}; no GPU`,
    advice: `${optional}: install NVIDIA's driver`,
  };
}

function toolkit(): Check {
  const name = 'CUDA toolkit';
  for (const nvcc of [...toolkits().map((home) => join(home, 'bin/nvcc')), 'nvcc']) {
    const { status, stdout } = spawnSync(nvcc, ['--version'], { encoding: 'utf8', timeout: 5000 });
    const release = /release [\d.]+, V[\d.]+/.exec(stdout ?? '')?.[0];
    if (status === 0) return { name, state: 'ok', found: `${nvcc}${release ? `, ${release}` : ''}` };
  }
  return {
    name,
    state: 'absent',
    found: 'no nvcc (CUDA_HOME, /usr/local/cuda*, PATH)',
    advice: `${optional}, to build: NVIDIA's package cuda-nvcc, 12.0 or newer`,
  };
}

function cublas(): Check {
  const name = 'cuBLASLt';
  const library = findLibrary(/^libcublasLt\.so/);
  if (library) return { name, state: 'ok', found: library };
  return {
    name,
    state: 'absent',
    found: `no libcublasLt.so in ${libraryFolders().join(', ')}`,
    advice: `${optional} (NVIDIA's package libcublas, 12 or 13; FP8_CUBLASLT names it elsewhere); without it our own, slower products are used`,
  };
}

const optional = 'only --device cuda needs it';

function toolkits(): string[] {
  const named = [process.env.CUDA_HOME, process.env.CUDA_PATH].filter((path) => path !== undefined);
  const usual = namesIn('/usr/local')
    .filter((entry) => /^cuda(-[\d.]+)?$/.test(entry))
    .map((entry) => join('/usr/local', entry));
  return [...named, ...usual].filter((path) => existsSync(path));
}

function findLibrary(pattern: RegExp): string | undefined {
  for (const folder of libraryFolders()) {
    const file = namesIn(folder).find((entry) => pattern.test(entry));
    if (file) return join(folder, file);
  }
  return undefined;
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder).sort();
  } catch {
    return [];
  }
}
