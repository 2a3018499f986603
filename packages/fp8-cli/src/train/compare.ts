import { join } from 'node:path';
import pc from 'picocolors';
import type { CompareOptions } from '../commands/compare.ts';
import { continueText } from '../generate.ts';
import { facts, note, print, printJson, table } from '../output.ts';
import { unknownWord } from '../suggest.ts';
import { type ResolvedRun, resolveRun } from './config.ts';
import {
  formatBytes,
  formatCount,
  formatLoss,
  loadModel,
  type RunConfig,
  type RunSummary,
  recipes,
  runTraining,
  UserError,
} from './fp8.ts';
import { evaluations, Plan, TooSlow } from './plan.ts';
import { Recorder } from './recorder.ts';
import { type ReportedRun, writeRunReport } from './report.ts';
import { RunFolder } from './run_folder.ts';
import { onStopSignal, type Stop } from './stop.ts';
import { heading, jsonView, LiveView } from './views.ts';

interface ComparedRun extends ReportedRun {
  recipe: string;
  seconds: number;
}

/**
 * `fp8lm compare`.
 * @returns the exit code
 * @throws UserError for what the user can put right
 */
export async function compare(model: string | undefined, options: CompareOptions): Promise<number> {
  const names = recipeNames(options.recipes);
  const flags = ['nproc', 'tp', 'sp', 'payloads', 'pp', 'virtual', 'layout', 'fp8Pipeline', 'dp', 'zero'] as const;
  const flag = flags.find((key) => options[key])?.replace('fp8Pipeline', 'fp8-pipeline');
  if (flag) throw new UserError(`compare --${flag}: a comparison trains in one process; leave --${flag} out`);
  const { config: base, name } = await resolveRun(model, options);
  const plan = options.minutes === undefined ? null : new Plan(base, names, options.minutes);
  const stop = onStopSignal();
  const runs: ComparedRun[] = [];
  try {
    for (let i = 0; i < names.length && !stop.signal.aborted; ) {
      const recipe = names[i];
      const steps = plan?.steps ?? base.steps;
      const evalEvery = options.evalEvery ?? Math.max(1, Math.round(steps / evaluations));
      const out = base.out === null ? null : join(base.out, recipe);
      const run = { name, config: { ...base, recipe, steps, evalEvery, out } };
      try {
        runs.push(await trainOne(run, options, stop, i === 0 ? plan : null));
        i++;
      } catch (error) {
        if (!(error instanceof TooSlow)) throw error;
        note(error.message);
      }
    }
  } finally {
    stop.dispose();
  }
  if (stop.signal.aborted) return stop.exitCode;
  finish(runs, base.out, options);
  return 0;
}

function recipeNames(text: string): string[] {
  const names = [...new Set(text.split(',').map((name) => name.trim()))].filter((name) => name !== '');
  if (names.length === 0) throw new UserError('--recipes: name at least one, for example --recipes bf16,o2');
  for (const name of names) {
    if (!Object.hasOwn(recipes, name)) throw new UserError(unknownWord('recipe', name, Object.keys(recipes)));
  }
  return names;
}

async function trainOne(
  { name, config }: ResolvedRun,
  options: CompareOptions,
  stop: Stop,
  plan: Plan | null,
): Promise<ComparedRun> {
  const recorder = new Recorder();
  const folder = config.out === null ? null : new RunFolder(config.out, config, recorder);
  const live = options.json ? null : new LiveView(name, config, config.recipe);
  const json = jsonView({ recipe: config.recipe });
  const start = performance.now();
  let began = start; // without the preparation of data
  try {
    await runTraining(
      config,
      (event) => {
        if (event.type === 'start') began = performance.now();
        if (event.type === 'step') plan?.check(event.step, performance.now() - began);
        recorder.on(event);
        folder?.on(event);
        if (live) live.on(event);
        else json(event);
      },
      stop.signal,
    );
  } finally {
    live?.end();
    folder?.close();
  }
  if (live) print();
  return { name: config.recipe, recipe: config.recipe, config, recorder, seconds: (performance.now() - start) / 1000 };
}

function finish(runs: readonly ComparedRun[], out: string | null, options: CompareOptions): void {
  const last = runs[runs.length - 1];
  const sample =
    last.config.out === null || last.config.data === 'random' ? null : sampleOf(last.config, options.sample);
  const report = out === null ? null : join(out, 'report.html');
  const title = sample ? [{ label: last.recipe, prompt: options.sample, text: sample }] : [];
  if (report !== null) writeRunReport(report, runs, title);
  if (options.json) {
    const summaries = Object.fromEntries(runs.map((run) => [run.recipe, summaryOf(run)]));
    return printJson({ comparison: summaries, ...(sample === null ? {} : { sample }), report });
  }
  print(heading(`Comparison after ${last.config.steps} steps`));
  print(table(comparisonRows(runs)));
  if (sample !== null) {
    print(`\n${heading(`Text by the ${last.recipe} model`)} ${pc.dim(`(prompt: ${JSON.stringify(options.sample)})`)}`);
    print(indent(options.sample + sample));
  }
  if (report === null) return;
  const saved = runs.flatMap(({ recipe, recorder }) =>
    recorder.saved ? [[`checkpoint ${recipe}`, recorder.saved.path] as const] : [],
  );
  print();
  print(facts([...saved, ['report', report]]));
}

const summaryOf = ({ recorder }: ComparedRun): RunSummary => recorder.summary as RunSummary;

/** One row a figure, one column a run; with two runs a column with the second as a share of the first. */
function comparisonRows(runs: readonly ComparedRun[]): string[][] {
  const of = (pick: (summary: RunSummary, run: ComparedRun) => number | null, format: (value: number) => string) => {
    const values = runs.map((run) => pick(summaryOf(run), run));
    const [first, second] = values;
    const ratio = runs.length === 2 && first && second ? [(second / first).toFixed(3)] : runs.length === 2 ? [''] : [];
    return [...values.map((value) => (value === null ? '-' : format(value))), ...ratio];
  };
  const share = runs.length === 2 ? [`${runs[1].recipe} / ${runs[0].recipe}`] : [];
  const kept = ({ weights, gradients, optimizer }: RunSummary['memory']): number => weights + gradients + optimizer;
  return [
    ['', ...runs.map(({ recipe }) => recipe), ...share],
    [
      'loss on held-out text (nats)',
      ...of(
        (s) => s.valLoss,
        (v) => v.toFixed(4),
      ),
    ],
    ['loss on training text', ...of((s) => s.lossLast, formatLoss)],
    ['tokens a second', ...of((s) => s.tokensPerSecond, formatCount)],
    [
      'seconds in all',
      ...of(
        (_, run) => run.seconds,
        (v) => v.toFixed(1),
      ),
    ],
    ['weights', ...of((s) => s.memory.weights, formatBytes)],
    ['gradients', ...of((s) => s.memory.gradients, formatBytes)],
    ['optimizer', ...of((s) => s.memory.optimizer, formatBytes)],
    ['weights + gradients + optimizer', ...of((s) => kept(s.memory), formatBytes)],
    [
      'bytes a parameter',
      ...of(
        (s) => kept(s.memory) / s.params,
        (v) => v.toFixed(2),
      ),
    ],
    ['activations (peak)', ...of((s) => s.memory.activationsPeak, formatBytes)],
    ['all tensors (peak)', ...of((s) => s.memory.totalPeak, formatBytes)],
  ];
}

function sampleOf({ out, device }: RunConfig, prompt: string): string {
  const loaded = loadModel(out as string, device);
  try {
    return continueText(loaded, prompt, { maxTokens: 110, temperature: 0.7, topP: 0.95, seed: 1 }).text;
  } finally {
    loaded.model.release();
  }
}

const indent = (text: string): string =>
  text
    .split('\n')
    .map((line) => `  ${line}`)
    .join('\n');
