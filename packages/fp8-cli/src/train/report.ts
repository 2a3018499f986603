import { environment } from '../machine.ts';
import { type ReportRun, type ReportSample, type RunConfig, recipes, writeReport } from './fp8.ts';
import type { Recorder } from './recorder.ts';

export interface ReportedRun {
  name: string;
  config: RunConfig;
  recorder: Recorder;
}

/** Writes one HTML page about one run or several. Runs that never got to their end are left out. */
export function writeRunReport(
  path: string,
  runs: readonly ReportedRun[],
  samples: readonly ReportSample[] = [],
): void {
  const shown = runs.flatMap((run) => reportRun(run) ?? []);
  if (shown.length === 0) return;
  const { start } = runs[0].recorder;
  const { steps, batch, gradAccum, seed, lr } = runs[0].config;
  writeReport(path, {
    title: shown.map(({ name }) => name).join(' and '),
    subtitle: `${start?.data ?? ''}; ${steps} steps of ${start?.tokensPerStep ?? batch * gradAccum} tokens, seed ${seed}, peak learning rate ${lr}`,
    runs: shown,
    samples: [...samples],
    environment: { ...environment(), backend: start?.backend ?? '' },
  });
}

function reportRun({ name, config, recorder }: ReportedRun): ReportRun | undefined {
  const { summary, train, val } = recorder;
  if (!summary || train.length === 0) return undefined;
  const { tokensPerSecond, memory, params } = summary;
  return { name, train, val, tokensPerSecond, memory, params, note: recipes[config.recipe].summary };
}
