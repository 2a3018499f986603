// Ranks of a run: how many, who starts them, and what this process is among them.
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Communicator, type Environment, init, readEnvironment, supervise } from 'fp8-dist';
import type { RunOptions } from '../commands/run_options.ts';
import { note } from '../output.ts';
import { checkWorld, latestCheckpoint, OtherRankFailed, Ranks, ranksNeeded, type RunConfig, UserError } from './fp8.ts';

export interface World {
  size: number;
  /** True where a launcher has started this process as one of the ranks. */
  isRank: boolean;
}

/**
 * @param flags what the command line says; without `nproc` as many ranks as the layout needs
 * @throws UserError with the equation if the layout does not fill the world
 */
export function worldOf(
  config: RunConfig,
  { nproc, zero }: Pick<RunOptions, 'nproc' | 'zero'>,
  environment: Environment = readEnvironment(),
): World {
  const isRank = environment.launchedBy !== 'none';
  const size = isRank ? environment.worldSize : (nproc ?? ranksNeeded(config));
  if (isRank && nproc !== undefined && nproc !== size)
    throw new UserError(`--nproc ${nproc}: this process is one of ${size} ranks already; leave --nproc out`);
  checkWorld(size, config);
  if (zero && size === 1)
    throw new UserError('--zero: there is one rank, so nothing can be sharded; use --nproc 2 or more');
  return { size, isRank };
}

/** How long ranks may take to end their step and save after a first Ctrl-C; a second one ends them at once. */
const stopGraceMs = 10 * 60_000;

/**
 * Starts the ranks of this very command, and again from the last checkpoint after a failure, if told to.
 * @param out the run's folder, which also gets the flight records of a failed job
 * @param maxRestarts restarts in a row without a new checkpoint
 * @returns the exit code
 */
export async function startRanks(
  size: number,
  args: readonly string[],
  out: string | null,
  maxRestarts = 0,
): Promise<number> {
  const bin = fileURLToPath(new URL('../../bin/fp8lm.mjs', import.meta.url));
  const command = [process.execPath, ...process.execArgv, bin, ...args];
  const before = newest(out);
  const { code, cause } = await supervise({
    command,
    nproc: size,
    prefix: 'first',
    stopGraceMs,
    flight: out === null ? undefined : join(out, 'flight'),
    maxRestarts,
    progress: () => newest(out),
    // A checkpoint that was there before belongs to an earlier run, unless this one was to continue it.
    commandAgain: () => (newest(out) === before || args.includes('--resume') ? command : [...command, '--resume']),
  });
  if (cause) note(`fp8lm: the job ended early: ${cause}`);
  return code;
}

/** The newest checkpoint and when it was written, as text. */
function newest(out: string | null): string {
  const found = out === null ? undefined : latestCheckpoint(out);
  return found ? `${found.path} ${statSync(found.path).mtimeMs}` : '';
}

/**
 * Runs `fn` as one of the ranks, or alone. After an error of this rank alone the process just ends: the launcher and the others see
 * to the rest.
 * @throws UserError if the layout does not fill the world; DistError if ranks do not come together
 */
export async function withRanks<T>({ size }: World, config: RunConfig, fn: (ranks: Ranks) => Promise<T>): Promise<T> {
  if (size === 1) return fn(Ranks.alone());
  const comm: Communicator = await init();
  const ranks = Ranks.of(comm, config);
  try {
    const result = await fn(ranks);
    await comm.close();
    return result;
  } catch (error) {
    // All ranks stop here and part in peace; the one that has the reason ends first, so that the launcher names it.
    if (ranks.haveFailed) await comm.close();
    if (error instanceof OtherRankFailed) await new Promise((resolve) => setTimeout(resolve, 500));
    throw error;
  }
}
