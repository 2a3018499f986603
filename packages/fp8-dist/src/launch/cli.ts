import { parseArgs } from 'node:util';
import { UserError } from 'fp8-core';
import { supervise, type SuperviseOptions } from './supervise.ts';

export const launchHelp = `fp8lm launch: starts the ranks of a job on this machine

  fp8lm launch --nproc N [--nnodes M --node-rank R --master HOST:PORT] [--max-restarts K] [--flight DIR] -- COMMAND …

  --nproc N            ranks on this machine
  --nnodes M           machines in the job (default 1); start the launcher on each
  --node-rank R        which of them this is, from 0
  --master HOST:PORT   address of rank 0, on machine 0; needs FP8_JOB_KEY or FP8_JOB_KEY_FILE
  --max-restarts K     start the job again when a rank fails, at most K times (default 0); the command must know what to go on from
  --flight DIR         where flight records of a failed job go (default ./fp8lm-flight)

Sets RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT, FP8_RESTART_COUNT and FP8_THREADS = cores / ranks.`;

/** Reads the arguments after `launch`. @throws UserError */
export function parseLaunchArguments(argv: readonly string[]): SuperviseOptions {
  const cut = argv.indexOf('--');
  const own = cut < 0 ? argv : argv.slice(0, cut);
  const command = cut < 0 ? [] : argv.slice(cut + 1);
  let values: Record<string, string | undefined>;
  try {
    const text = { type: 'string' as const };
    ({ values } = parseArgs({
      args: [...own],
      options: { nproc: text, nnodes: text, 'node-rank': text, master: text, flight: text, 'max-restarts': text },
    }) as { values: Record<string, string | undefined> });
  } catch (error) {
    throw new UserError(`launch: ${(error as Error).message}`);
  }
  const whole = (name: string, fallback: number): number => {
    const text = values[name];
    if (text === undefined) return fallback;
    if (!/^\d+$/.test(text))
      throw new UserError(`launch: --${name} is ${JSON.stringify(text)}; expected a whole number`);
    return Number(text);
  };
  return {
    command,
    nproc: whole('nproc', 1),
    nnodes: whole('nnodes', 1),
    nodeRank: whole('node-rank', 0),
    maxRestarts: whole('max-restarts', 0),
    master: values.master,
    flight: values.flight,
  };
}

/** `fp8lm launch …`: runs the job; the exit code. @throws UserError */
export async function launchMain(argv: readonly string[]): Promise<number> {
  if (argv.includes('--help') && (argv.indexOf('--') < 0 || argv.indexOf('--help') < argv.indexOf('--'))) {
    process.stdout.write(`${launchHelp}\n`);
    return 0;
  }
  const { code, cause } = await supervise(parseLaunchArguments(argv));
  if (cause) process.stderr.write(`[launch] the job ended early: ${cause}\n`);
  return code;
}
