import { describe, expect, it } from 'vitest';
import { firstHost, readEnvironment } from './environment.ts';

describe('the environment', () => {
  it('without variables is a job of one', () => {
    expect(readEnvironment({})).toMatchObject({ rank: 0, worldSize: 1, launchedBy: 'none' });
  });
  it('is read as torchrun sets it', () => {
    const env = {
      RANK: '5',
      WORLD_SIZE: '8',
      LOCAL_RANK: '1',
      LOCAL_WORLD_SIZE: '4',
      MASTER_ADDR: '10.0.0.7',
      MASTER_PORT: '29500',
    };
    expect(readEnvironment(env)).toEqual({
      rank: 5,
      worldSize: 8,
      localRank: 1,
      localSize: 4,
      masterAddr: '10.0.0.7',
      masterPort: 29500,
      folder: null,
      socketFolder: null,
      launchedBy: 'variables',
    });
  });
  it('is read as srun sets it, except in an interactive shell', () => {
    const env = {
      SLURM_PROCID: '3',
      SLURM_NTASKS: '4',
      SLURM_LOCALID: '1',
      SLURM_NNODES: '2',
      SLURM_JOB_ID: '77',
      SLURM_STEP_NODELIST: 'node[03-04]',
      SLURM_TASKS_PER_NODE: '2(x2)',
    };
    expect(readEnvironment(env)).toMatchObject({
      rank: 3,
      worldSize: 4,
      localRank: 1,
      localSize: 2,
      masterAddr: 'node03',
      launchedBy: 'slurm',
    });
    expect(readEnvironment({ ...env, SLURM_NNODES: '1' }).masterAddr).toBe('127.0.0.1');
    expect(readEnvironment({ ...env, SLURM_PTY_PORT: '4000', SLURM_JOB_NAME: 'bash' }).worldSize).toBe(1);
    // srun bash -c '…': ranks in a shell are ranks.
    expect(readEnvironment({ ...env, SLURM_JOB_NAME: 'bash' }).worldSize).toBe(4);
    expect(readEnvironment({ ...env, RANK: '0', WORLD_SIZE: '1' }).launchedBy).toBe('variables');
  });
  it('is read as mpirun sets it', () => {
    const env = {
      OMPI_COMM_WORLD_RANK: '1',
      OMPI_COMM_WORLD_SIZE: '2',
      OMPI_COMM_WORLD_LOCAL_RANK: '1',
      OMPI_COMM_WORLD_LOCAL_SIZE: '2',
    };
    expect(readEnvironment(env)).toMatchObject({
      rank: 1,
      worldSize: 2,
      localRank: 1,
      masterAddr: '127.0.0.1',
      launchedBy: 'mpi',
    });
    expect(() => readEnvironment({ ...env, OMPI_COMM_WORLD_LOCAL_SIZE: '1' })).toThrow('MASTER_ADDR');
  });
  it('is refused where it contradicts itself', () => {
    expect(() => readEnvironment({ RANK: '2', WORLD_SIZE: '2', MASTER_PORT: '1' })).toThrow(
      'rank 2 is not one of 2 ranks',
    );
    expect(() => readEnvironment({ RANK: '0' })).toThrow('WORLD_SIZE is not set');
    expect(() => readEnvironment({ RANK: 'x', WORLD_SIZE: '2' })).toThrow('RANK is "x"');
    expect(() => readEnvironment({ RANK: '0', WORLD_SIZE: '2' })).toThrow('MASTER_PORT is not set');
  });
  it('finds the first host of a compact list', () => {
    expect(['a', 'a,b', 'n[03-05,9],x', 'n[7]', 'login,n[1-2]'].map(firstHost)).toEqual([
      'a',
      'a',
      'n03',
      'n7',
      'login',
    ]);
  });
});
