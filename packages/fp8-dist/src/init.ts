import { connect, Communicator, type CommunicatorOptions } from './communicator.ts';
import { readEnvironment } from './rendezvous/environment.ts';
import { jobKeyFrom } from './rendezvous/security.ts';
import { Control } from './worker/control.ts';

/** Path of the native addon if the CPU backend is installed and built; null otherwise. */
export async function findAddon(): Promise<string | null> {
  if (process.env.FP8_DIST_NATIVE === '0') return null;
  const name = 'cpu-backend';
  try {
    const backend = (await import(name)) as { cpuBackendAddonPath?: () => string | null };
    return backend.cpuBackendAddonPath?.() ?? null;
  } catch {
    return null; // not installed: arithmetic in TypeScript
  }
}

/**
 * Joins the job that the environment describes (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT; Slurm; Open MPI); alone, without any
 * socket, where it describes none. Call once, at the start; call `close` at the end.
 * @throws UserError if the variables contradict each other or a key is missing; DistError if ranks do not come together
 */
export async function init(options: CommunicatorOptions = {}): Promise<Communicator> {
  const environment = readEnvironment();
  if (environment.worldSize === 1) {
    const alone = { rank: 0, size: 1, generation: 0, addresses: ['this process'] };
    return new Communicator(null, new Control(), alone, false, 0, 0);
  }
  const rendezvousMs = Number(process.env.FP8_RENDEZVOUS_TIMEOUT_MS ?? 300_000);
  const wiring = { kind: 'zeromq' as const, environment, jobKey: jobKeyFrom(process.env), rendezvousMs };
  return connect(wiring, await findAddon(), options);
}
