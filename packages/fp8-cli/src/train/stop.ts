// Ctrl-C once: finish the step, save, say so. Twice: end at once.
import { constants } from 'node:os';
import { note } from '../output.ts';

export interface Stop {
  signal: AbortSignal;
  /** 0 until a signal came, then 128 + its number. */
  readonly exitCode: number;
  dispose(): void;
}

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** @param isQuiet says nothing: ranks other than the first */
export function onStopSignal(isQuiet = false): Stop {
  const controller = new AbortController();
  let exitCode = 0;
  const listener = (name: NodeJS.Signals): void => {
    // Both came while one step ran.
    if (exitCode !== 0) process.exit(exitCode);
    exitCode = 128 + constants.signals[name];
    if (!isQuiet) note(`${name}: stopping after this step; once more ends at once`);
    controller.abort();
    // Without a listener the system's own action ends the process, even in the middle of a save (which survives that).
    setImmediate(dispose);
  };
  const dispose = (): void => {
    for (const name of SIGNALS) process.removeListener(name, listener);
  };
  for (const name of SIGNALS) process.on(name, listener);
  return {
    signal: controller.signal,
    get exitCode() {
      return exitCode;
    },
    dispose,
  };
}
