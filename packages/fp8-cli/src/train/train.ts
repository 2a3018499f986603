import { join } from 'node:path';
import type { TrainOptions } from '../commands/train.ts';
import { note } from '../output.ts';
import { type ResolvedRun, resolveRun } from './config.ts';
import {
  checkInit,
  checkLayout,
  latestCheckpoint,
  modelConfigOf,
  type Ranks,
  type RunEvent,
  runTraining,
  UserError,
} from './fp8.ts';
import { heading, jsonView, LiveView, summaryText } from './views.ts';
import { Recorder } from './recorder.ts';
import { RunFolder } from './run_folder.ts';
import { onStopSignal } from './stop.ts';
import { writeRunReport } from './report.ts';
import { print } from '../output.ts';
import { startRanks, withRanks, worldOf } from './world.ts';

/**
 * `fp8lm train`: starts the ranks if there are several and nobody has, else trains, alone or as one of them.
 * @param args the whole command line, for ranks to repeat
 * @returns the exit code: 0, or 128 + the signal's number if a signal ended the run early
 * @throws UserError for what the user can put right
 */
export async function train(
  model: string | undefined,
  options: TrainOptions,
  args: readonly string[],
): Promise<number> {
  const run = await resolveRun(model, options);
  checkLayout(run.config, modelConfigOf(run.config));
  const world = worldOf(run.config, options);
  const { maxRestarts = 0 } = options;
  if (maxRestarts > 0 && run.config.out === null)
    throw new UserError('--max-restarts: without --out there is no checkpoint to go on from; add --out <folder>');
  if ((world.size > 1 || maxRestarts > 0) && !world.isRank) {
    if (!run.config.resume) checkInit(run.config);
    return startRanks(world.size, args, run.config.out, maxRestarts);
  }
  run.config.dp = world.size > 1 ? world.size / (run.config.tp * run.config.pp) : null;
  return withRanks(world, run.config, (ranks) =>
    ranks.isFirst ? trainAndShow(run, options, ranks) : trainAlong(run, ranks),
  );
}

/** The rank that prints and writes. */
async function trainAndShow({ config, name }: ResolvedRun, options: TrainOptions, ranks: Ranks): Promise<number> {
  const { out } = config;
  if (out !== null && !config.resume && latestCheckpoint(out)) {
    note(`${out} holds an earlier run; this one starts anew (--resume would continue it)`);
  }
  const recorder = new Recorder();
  const folder = out === null ? null : new RunFolder(out, config, recorder);
  const live = options.json ? null : new LiveView(name, config);
  const view = live ? (event: RunEvent) => live.on(event) : jsonView();
  const stop = onStopSignal();
  try {
    await runTraining(
      config,
      (event) => {
        recorder.on(event);
        folder?.on(event);
        view(event);
      },
      stop.signal,
      ranks,
    );
  } finally {
    live?.end();
    folder?.close();
    stop.dispose();
  }
  if (out !== null) writeRunReport(join(out, 'report.html'), [{ name: `${name}, ${config.recipe}`, config, recorder }]);
  if (live) {
    print(heading('Result'));
    print(summaryText(recorder, out));
  }
  return stop.exitCode;
}

/** Any other rank. */
async function trainAlong({ config }: ResolvedRun, ranks: Ranks): Promise<number> {
  const stop = onStopSignal(true);
  try {
    await runTraining(config, () => {}, stop.signal, ranks);
  } finally {
    stop.dispose();
  }
  return stop.exitCode;
}
