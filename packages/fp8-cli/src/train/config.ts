// From words to a run: preset or run file, then flags, then --set, each over the one before.
import { existsSync } from 'node:fs';
import { basename, join } from 'node:path';
import { readEnvironment } from 'fp8-dist';
import type { RunOptions } from '../commands/run_options.ts';
import { unknownWord } from '../suggest.ts';
import {
  checkLayout,
  checkRunConfig,
  defaultRun,
  type GptConfig,
  modelConfigOf,
  ranksNeeded,
  presets,
  type RunConfig,
  recipes,
  UserError,
  withInitModel,
} from './fp8.ts';
import { isRunFile, loadRunFile } from './run_file.ts';

/** A run as the command line describes it. */
export interface ResolvedRun {
  config: RunConfig;
  /** What people call the model: the preset's name, or the run file's. */
  name: string;
}

/** @throws UserError naming the flag, field or file that cannot be used */
export async function resolveRun(
  model: string | undefined,
  options: RunOptions & { recipe?: string; resume?: boolean },
): Promise<ResolvedRun> {
  const base = await baseOf(model, options);
  const given: Partial<RunConfig> = { ...base, ...fromFlags(options) };
  checkKeys(given, 'run config');
  checkNames(given);
  const run = withInitModel(given);
  const name = nameOf(model, run);
  for (const text of options.set ?? []) set(run, text);
  if (options.dropout !== undefined) modelOf(run).dropout = options.dropout;
  const config = checkRunConfig(run);
  checkLayout(config, modelConfigOf(config));
  return { config, name };
}

const layoutKeys = ['dp', 'tp', 'pp', 'sp', 'payloads', 'virtual', 'layout'] as const;

async function baseOf(
  model: string | undefined,
  options: RunOptions & { resume?: boolean },
): Promise<Partial<RunConfig>> {
  const { resume, out, nproc } = options;
  const saved = resume && out !== undefined ? join(out, 'config.json') : undefined;
  const resumed = saved !== undefined && existsSync(saved) ? await loadRunFile(saved) : {};
  // A layout belongs to the start, not to the run: any other may go on. The saved one is taken where it fits the ranks there are.
  const { launchedBy, worldSize } = readEnvironment();
  const size = launchedBy === 'none' ? nproc : worldSize;
  const isOther = layoutKeys.some((key) => options[key] !== undefined);
  if (isOther || (size !== undefined && size !== ranksNeeded({ ...defaultRun, ...resumed })))
    for (const key of layoutKeys) delete resumed[key];
  if (model === undefined) return resumed;
  return isRunFile(model) ? { ...resumed, ...(await loadRunFile(model)) } : { ...resumed, model };
}

function fromFlags(options: RunOptions & { recipe?: string; resume?: boolean }): Partial<RunConfig> {
  const { init, data, tokenizer, valFraction, device, recipe, steps, batch, gradAccum, seq, lr, schedule, seed } =
    options;
  const given: Partial<RunConfig> = {
    init,
    data,
    tokenizer,
    valFraction,
    device,
    recipe,
    steps,
    batch,
    gradAccum,
    seq,
    lr,
  };
  const { warmup, recompute, evalEvery, evalBatches, out, resume, saveEvery, keep, dp, zero } = options;
  const { tp, sp, payloads, pp, virtual, layout, fp8Pipeline } = options;
  Object.assign(given, {
    schedule,
    seed,
    warmupSteps: warmup,
    recompute,
    evalEvery,
    evalBatches,
    out,
    saveEvery,
    keep,
    tp,
    sp,
    payloads,
    pp,
    virtual,
    layout,
    fp8Pipeline,
    dp,
    zero: zero === true ? 1 : zero,
  });
  given.resume = resume ?? false;
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
}

function checkKeys(run: object, where: string): void {
  const known = Object.keys(defaultRun);
  for (const key of Object.keys(run)) {
    if (!Object.hasOwn(defaultRun, key)) throw new UserError(unknownWord(`${where}: key`, key, known));
  }
}

function checkNames({ model, recipe }: Partial<RunConfig>): void {
  if (typeof model === 'string' && !Object.hasOwn(presets, model)) {
    throw new UserError(unknownWord('preset', model, Object.keys(presets)));
  }
  if (recipe !== undefined && !Object.hasOwn(recipes, recipe)) {
    throw new UserError(unknownWord('recipe', String(recipe), Object.keys(recipes)));
  }
}

const nameOf = (argument: string | undefined, { model = defaultRun.model, init }: Partial<RunConfig>): string =>
  typeof model === 'string' ? model : (argument ?? (init ? basename(init) : 'own model'));

/** The model as fields of its own, so that one of them can be changed. */
function modelOf(run: Partial<RunConfig>): GptConfig {
  const model = run.model ?? defaultRun.model;
  const own = { ...(typeof model === 'string' ? presets[model] : model) };
  run.model = own;
  return own;
}

/** Applies `key=value` or `model.key=value`. */
function set(run: Partial<RunConfig>, text: string): void {
  const at = text.indexOf('=');
  if (at < 1) throw new UserError(`--set ${text}: need key=value, for example --set weightDecay=0.05`);
  const [key, value] = [text.slice(0, at).trim(), text.slice(at + 1).trim()];
  const isOfModel = key.startsWith('model.');
  const field = isOfModel ? key.slice('model.'.length) : key;
  const target = (isOfModel ? modelOf(run) : run) as Record<string, unknown>;
  const known = (isOfModel ? presets['gpt-nano'] : defaultRun) as unknown as Record<string, unknown>;
  if (!Object.hasOwn(known, field)) {
    throw new UserError(unknownWord(`--set: ${isOfModel ? 'model field' : 'key'}`, field, Object.keys(known)));
  }
  target[field] = parseLike(known[field], value, key);
  if (field === 'model' || field === 'recipe') checkNames(run);
}

/** Reads a value of the kind that the field has by default. */
function parseLike(example: unknown, text: string, key: string): unknown {
  const fail = (need: string): never => {
    throw new UserError(`--set ${key}=${text}: need ${need}`);
  };
  if (key === 'layout' && text !== 'null')
    return text
      .replace(/^\[|\]$/g, '')
      .split(',')
      .map(Number);
  if (key === 'recompute' && ['full', 'attention', 'mlp'].includes(text)) return text;
  if (typeof example === 'boolean') return text === 'true' ? true : text === 'false' ? false : fail('true or false');
  if (typeof example === 'number') return numberOf(text) ?? fail('a number');
  if (Array.isArray(example)) {
    const parts = text.replace(/^\[|\]$/g, '').split(',');
    const numbers = parts.map(numberOf).filter((n) => n !== undefined);
    return numbers.length === example.length && parts.length === example.length
      ? numbers
      : fail(`${example.length} numbers, for example ${example.join(',')}`);
  }
  if (example === null && text === 'null') return null;
  return key === 'seq' || key === 'dp' ? (numberOf(text) ?? fail('a number or null')) : text;
}

function numberOf(text: string): number | undefined {
  const value = text.trim() === '' ? Number.NaN : Number(text);
  return Number.isFinite(value) ? value : undefined;
}
