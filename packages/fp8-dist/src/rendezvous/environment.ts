// Who this process is, from what a launcher sets: fp8lm and torchrun (RANK …), Slurm (SLURM_PROCID …), Open MPI
// (OMPI_COMM_WORLD_RANK …). Explicit beats general: RANK wins over the cluster's variables.
import { UserError } from 'fp8-core';

export interface Environment {
  rank: number;
  worldSize: number;
  localRank: number;
  localSize: number;
  masterAddr: string;
  masterPort: number;
  /** Set by our launcher for jobs on one machine: a folder of mode 0700 that holds the job's sockets. */
  folder: string | null;
  /** Set by our launcher for jobs on several machines: the same, for the sockets of this machine's ranks. */
  socketFolder: string | null;
  launchedBy: 'variables' | 'slurm' | 'mpi' | 'none';
}

function whole(env: NodeJS.ProcessEnv, name: string, fallback?: number): number {
  const text = env[name];
  if (text === undefined || text === '') {
    if (fallback !== undefined) return fallback;
    throw new UserError(`${name} is not set, though other variables of a job are`);
  }
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0)
    throw new UserError(`${name} is ${JSON.stringify(text)}; expected a whole number`);
  return value;
}

/** The first host of Slurm's compact list, as in "node[03-05,9],login1". */
export function firstHost(list: string): string {
  const open = list.indexOf('[');
  const comma = list.indexOf(',');
  if (open < 0 || (comma >= 0 && comma < open)) return comma < 0 ? list : list.slice(0, comma);
  const first = list.slice(open + 1).match(/^[0-9]+/);
  return first ? list.slice(0, open) + first[0] : list;
}

/** @throws UserError if the variables contradict each other */
export function readEnvironment(env: NodeJS.ProcessEnv = process.env): Environment {
  const found = fromVariables(env) ?? fromSlurm(env) ?? fromMpi(env);
  const e = found ?? {
    rank: 0,
    worldSize: 1,
    localRank: 0,
    localSize: 1,
    masterAddr: '127.0.0.1',
    masterPort: 0,
    folder: null,
    socketFolder: null,
    launchedBy: 'none' as const,
  };
  if (e.worldSize < 1 || e.rank >= e.worldSize)
    throw new UserError(`rank ${e.rank} is not one of ${e.worldSize} ranks`);
  if (e.worldSize > 4096) throw new UserError(`${e.worldSize} ranks; at most 4096 are possible`);
  return e;
}

function fromVariables(env: NodeJS.ProcessEnv): Environment | null {
  if (env.RANK === undefined && env.WORLD_SIZE === undefined) return null;
  const worldSize = whole(env, 'WORLD_SIZE');
  const rank = whole(env, 'RANK');
  const localRank = whole(env, 'LOCAL_RANK', rank);
  const folder = env.FP8_JOB_FOLDER || null;
  return {
    rank,
    worldSize,
    localRank,
    localSize: whole(env, 'LOCAL_WORLD_SIZE', Math.min(worldSize, localRank + 1)),
    masterAddr: env.MASTER_ADDR ?? '127.0.0.1',
    masterPort: folder || worldSize === 1 ? whole(env, 'MASTER_PORT', 0) : whole(env, 'MASTER_PORT'),
    folder,
    socketFolder: env.FP8_SOCKET_FOLDER || null,
    launchedBy: 'variables',
  };
}

/** An interactive shell on a cluster (`srun --pty bash`) has Slurm's variables too, but is no job step of several ranks. */
function fromSlurm(env: NodeJS.ProcessEnv): Environment | null {
  const interactive = env.SLURM_PTY_PORT !== undefined || env.SLURM_JOB_NAME === 'interactive';
  if (env.SLURM_PROCID === undefined || interactive) return null;
  const nodes = whole(env, 'SLURM_NNODES', 1);
  const size = whole(env, 'SLURM_NTASKS', 1);
  const jobId = whole(env, 'SLURM_JOB_ID', 0);
  const step = whole(env, 'SLURM_STEP_ID', 0) % 1000;
  const list = env.SLURM_STEP_NODELIST ?? env.SLURM_JOB_NODELIST ?? '127.0.0.1';
  return {
    rank: whole(env, 'SLURM_PROCID'),
    worldSize: size,
    localRank: whole(env, 'SLURM_LOCALID', 0),
    localSize:
      Number.parseInt(env.SLURM_STEP_TASKS_PER_NODE ?? env.SLURM_TASKS_PER_NODE ?? '', 10) || Math.ceil(size / nodes),
    masterAddr: env.MASTER_ADDR ?? (nodes === 1 ? '127.0.0.1' : firstHost(list)),
    // A port of the job's own, so that two jobs on a node do not meet.
    masterPort: whole(env, 'MASTER_PORT', 20000 + ((jobId * 7 + step) % 20000)),
    folder: null,
    socketFolder: null,
    launchedBy: 'slurm',
  };
}

function fromMpi(env: NodeJS.ProcessEnv): Environment | null {
  if (env.OMPI_COMM_WORLD_RANK === undefined) return null;
  const size = whole(env, 'OMPI_COMM_WORLD_SIZE');
  const localSize = whole(env, 'OMPI_COMM_WORLD_LOCAL_SIZE', size);
  if (localSize < size && !env.MASTER_ADDR)
    throw new UserError('mpirun over several machines: set MASTER_ADDR (-x MASTER_ADDR=host of rank 0)');
  const job = (env.OMPI_MCA_ess_base_jobid ?? env.PMIX_NAMESPACE ?? '0').replace(/\D/g, '').slice(-9);
  return {
    rank: whole(env, 'OMPI_COMM_WORLD_RANK'),
    worldSize: size,
    localRank: whole(env, 'OMPI_COMM_WORLD_LOCAL_RANK', 0),
    localSize,
    masterAddr: env.MASTER_ADDR ?? '127.0.0.1',
    masterPort: whole(env, 'MASTER_PORT', 20000 + (Number(job || 0) % 20000)),
    folder: null,
    socketFolder: null,
    launchedBy: 'mpi',
  };
}
