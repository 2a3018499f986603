// This build has no CUDA backend; what one would need is looked for all the same, each part on its own, as each is
// installed separately.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Check } from './doctor.ts';

const libraryFolders = (): string[] => [
  ...(process.env.LD_LIBRARY_PATH ?? '').split(':').filter((folder) => folder !== ''),
  ...toolkits().flatMap((home) => [join(home, 'lib64'), join(home, 'targets/x86_64-linux/lib')]),
  '/usr/lib/x86_64-linux-gnu',
  '/usr/lib/aarch64-linux-gnu',
  '/usr/lib64',
  '/usr/lib/wsl/lib',
];

/** Driver, toolkit, cuBLASLt. */
export function cudaChecks(): Check[] {
  return [driver(), toolkit(), cublas()];
}

function driver(): Check {
  const name = 'NVIDIA driver';
  const query = ['--query-gpu=name,driver_version', '--format=csv,noheader'];
  const { status, stdout } = spawnSync('nvidia-smi', query, { encoding: 'utf8', timeout: 5000 });
  if (status === 0 && stdout.trim() !== '') return { name, state: 'ok', found: stdout.trim().replaceAll('\n', '; ') };
  const library = findLibrary(/^libcuda\.so/);
  if (library) return { name, state: 'absent', found: `${library}, but nvidia-smi shows no GPU`, advice: optional };
  return { name, state: 'absent', found: 'no libcuda.so, no GPU', advice: optional };
}

function toolkit(): Check {
  const name = 'CUDA toolkit';
  for (const nvcc of [...toolkits().map((home) => join(home, 'bin/nvcc')), 'nvcc']) {
    const { status, stdout } = spawnSync(nvcc, ['--version'], { encoding: 'utf8', timeout: 5000 });
    const release = /release [\d.]+, V[\d.]+/.exec(stdout ?? '')?.[0];
    if (status === 0) return { name, state: 'ok', found: `${nvcc}${release ? `, ${release}` : ''}` };
  }
  return { name, state: 'absent', found: 'no nvcc (CUDA_HOME, /usr/local/cuda*, PATH)', advice: optional };
}

function cublas(): Check {
  const name = 'cuBLASLt';
  const library = findLibrary(/^libcublasLt\.so/);
  if (library) return { name, state: 'ok', found: library };
  return { name, state: 'absent', found: 'no libcublasLt.so', advice: `${optional} (NVIDIA's package libcublas)` };
}

const optional = 'only a CUDA backend would need it, which this build has not';

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
