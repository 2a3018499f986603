import { execFileSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { isCpuBackendBuilt } from '../src/backend.ts';

const addon = fileURLToPath(new URL('../build/cpu_backend.node', import.meta.url));

/** Threads that a process of its own would use. */
function threadsWith(environment: Record<string, string>): number {
  const program = `process.stdout.write(String(require(${JSON.stringify(addon)}).describe().threads))`;
  const env: NodeJS.ProcessEnv = { ...process.env, ...environment };
  for (const name of ['FP8_THREADS', 'LOCAL_WORLD_SIZE']) if (!(name in environment)) delete env[name];
  return Number(execFileSync(process.execPath, ['-e', program], { env, encoding: 'utf8' }));
}

describe.skipIf(!isCpuBackendBuilt())('threads of the CPU backend', () => {
  const cores = availableParallelism();

  it('are the cores, divided by the ranks on this machine, and at least one', () => {
    expect(threadsWith({})).toBe(cores);
    for (const name of ['LOCAL_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_SIZE', 'MPI_LOCALNRANKS']) {
      expect(threadsWith({ [name]: '2' })).toBe(Math.max(1, Math.floor(cores / 2)));
    }
    expect(threadsWith({ LOCAL_WORLD_SIZE: '1000' })).toBe(1);
  });

  it('are what FP8_THREADS says; what is no number there counts for nothing', () => {
    expect(threadsWith({ FP8_THREADS: '3', LOCAL_WORLD_SIZE: '2' })).toBe(3);
    expect(threadsWith({ FP8_THREADS: 'many' })).toBe(cores);
  });
});
