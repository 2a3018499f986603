// Starts a job again after a rank has failed: the way from a fault to a finished run that needs nobody at the keyboard. What a
// restart goes on from is the program's to know (its last checkpoint); how often it is worth trying is settled here.
import { UserError } from 'fp8-core';
import { launch, type LaunchOptions, type LaunchResult } from './launch.ts';

export interface SuperviseOptions extends LaunchOptions {
  /** Restarts in a row that bring no progress before the job is given up. 0: none. */
  maxRestarts: number;
  /** Tells how far the job has come, as any text that changes with progress. Default: never changes, so that all restarts count. */
  progress?: () => string;
  /** The command of a restart, where it differs from the first. */
  commandAgain?: () => readonly string[];
}

export interface SuperviseResult extends LaunchResult {
  /** How often the job was started again. */
  restarts: number;
}

/** Exit code of a job that was given up: starting it once more would hardly help. */
export const givenUp = 93;
/** A user's mistake fails the same way each time. */
const userMistake = 2;

/**
 * Runs a job to its end, with restarts. Ranks find the number of restarts so far in FP8_RESTART_COUNT (and, as under torchrun, in
 * TORCHELASTIC_RESTART_COUNT). An interrupt and a user's mistake (exit code 2) end it at once. On several machines each launcher
 * restarts its own ranks; they meet again at the rendezvous.
 * @throws UserError if the options make no job
 */
export async function supervise(options: SuperviseOptions): Promise<SuperviseResult> {
  const { maxRestarts, progress = () => '', commandAgain } = options;
  if (!Number.isInteger(maxRestarts) || maxRestarts < 0)
    throw new UserError(`launch: --max-restarts is ${maxRestarts}; expected a whole number`);
  const say = (line: string) => (options.stderr ?? process.stderr).write(`[launch] ${line}\n`);
  let mark = progress();
  let inVain = 0;
  for (let restarts = 0; ; restarts++) {
    const count = { FP8_RESTART_COUNT: `${restarts}`, TORCHELASTIC_RESTART_COUNT: `${restarts}` };
    const command = restarts > 0 && commandAgain ? commandAgain() : options.command;
    const env = { ...(options.env ?? process.env), ...count };
    const result = await launch({ ...options, command, env });
    if (maxRestarts === 0 || result.culprit === null || result.code === userMistake) return { ...result, restarts };
    const now = progress();
    inVain = now === mark ? inVain + 1 : 1;
    mark = now;
    if (inVain > maxRestarts) {
      const cause = `${result.cause}; given up after ${maxRestarts} restarts without progress`;
      return { ...result, code: givenUp, cause, restarts };
    }
    say(`${result.cause}; starting again (${inVain} of ${maxRestarts} without progress)`);
  }
}
