import { join } from 'node:path';
import type { TrainOptions } from '../commands/train.ts';
import { note } from '../output.ts';
import { resolveRun } from './config.ts';
import { latestCheckpoint, type RunEvent, runTraining } from './fp8.ts';
import { heading, jsonView, LiveView, summaryText } from './views.ts';
import { Recorder } from './recorder.ts';
import { RunFolder } from './run_folder.ts';
import { onStopSignal } from './stop.ts';
import { writeRunReport } from './report.ts';
import { print } from '../output.ts';

/**
 * `fp8lm train`.
 * @returns the exit code: 0, or 128 + the signal's number if a signal ended the run early
 * @throws UserError for what the user can put right
 */
export async function train(model: string | undefined, options: TrainOptions): Promise<number> {
  const { config, name } = await resolveRun(model, options);
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
