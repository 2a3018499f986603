import { Command } from 'commander';

/** `fp8lm launch …` as the list of commands shows it; `main` hands its arguments to `runLaunch` untouched. */
export function launchCommand(): Command {
  return new Command('launch').description('Start the ranks of a job on this machine and end them together.');
}

/** Starts the ranks. @param args after `launch` @returns the exit code */
export async function runLaunch(args: readonly string[]): Promise<number> {
  const { launchMain } = await import('fp8-dist');
  return launchMain(args);
}
