import { type PayloadSet, payloadSets, type Recipe, recipeNamed, recipes, UserError } from 'fp8-core';
import { type GptConfig, presets, type Recompute } from 'fp8-models';
import type { Device } from './backend.ts';

/** A training run as a value: what a `.ts` run file exports, what the command line fills in, what a checkpoint records. */
export interface RunConfig {
  /** A preset's name, or a model of one's own. */
  model: string | GptConfig;
  /** Precision recipe by name. */
  recipe: string;
  device: Device;
  /** `builtin` (real text found on every installation), `random` (uniform tokens, for throughput), or a path to text. */
  data: string;
  /** Weights to start from: a Hugging Face folder, a run or a checkpoint; null draws them. Its model is the run's, unless `model` says so too. */
  init: string | null;
  /** `bpe` (trained on the data; with `init`: that of its model), `byte`, or a folder with a tokenizer.json. */
  tokenizer: string;
  steps: number;
  /** Sequences a micro-batch. */
  batch: number;
  /** Micro-batches a step. */
  gradAccum: number;
  /** Tokens a sequence; the model's maxSeqLen if null. */
  seq: number | null;
  lr: number;
  schedule: 'cosine' | 'wsd' | 'constant';
  warmupSteps: number;
  minLrRatio: number;
  weightDecay: number;
  betas: [number, number];
  maxGradNorm: number;
  seed: number;
  /** Steps between evaluations on held-out text; 0 evaluates at the end only. */
  evalEvery: number;
  /** Micro-batches an evaluation. */
  evalBatches: number;
  /** Share of the text held out, in (0, 1). */
  valFraction: number;
  /** Folder of checkpoints, metrics and report; null keeps nothing. */
  out: string | null;
  /** Continue from the newest checkpoint in `out`. */
  resume: boolean;
  /** Steps between checkpoints; 0 saves at the end only. */
  saveEvery: number;
  /** Newest checkpoints kept. */
  keep: number;
  /** Recompute activations in backward: true (or `full`) whole layers, else the attention or MLP half of each. */
  recompute: boolean | Recompute;
  /** Tensor-parallel ranks: they share each layer. */
  tp: number;
  /** Sequence parallelism on the tensor-parallel ranks: norms, dropout and residuals on a part of the sequence each. */
  sp: boolean;
  /** What tensor-parallel ranks send in FP8: as the recipe says (null), nothing, layer inputs, or all that can be. */
  payloads: PayloadSet | null;
  /** Pipeline stages: they share the layers among them. */
  pp: number;
  /** Chunks of the model a stage holds; above 1 the schedule is interleaved. */
  virtual: number;
  /** Layers of each place of the pipeline (stages x chunks, in the order of the layers); null: balanced. */
  layout: readonly number[] | null;
  /** Between stages, activations in e4m3 and their gradients in e5m2. */
  fp8Pipeline: boolean;
  /** Data-parallel ranks, each with its own micro-batches; null: all that there are. */
  dp: number | null;
  /** ZeRO: 0 keeps the optimizer whole on each rank, 1 shards its states, 2 the gradients too. */
  zero: 0 | 1 | 2;
}

export const defaultRun: RunConfig = {
  model: 'gpt-nano',
  recipe: 'o2',
  device: 'auto',
  data: 'builtin',
  init: null,
  tokenizer: 'bpe',
  steps: 300,
  batch: 8,
  gradAccum: 1,
  seq: null,
  lr: 1e-3,
  schedule: 'cosine',
  warmupSteps: 20,
  minLrRatio: 0.1,
  weightDecay: 0.1,
  betas: [0.9, 0.95],
  maxGradNorm: 1,
  seed: 1337,
  evalEvery: 100,
  evalBatches: 8,
  valFraction: 0.05,
  out: null,
  resume: false,
  saveEvery: 0,
  keep: 2,
  recompute: false,
  tp: 1,
  sp: false,
  payloads: null,
  pp: 1,
  virtual: 1,
  layout: null,
  fp8Pipeline: false,
  dp: null,
  zero: 0,
};

type Rule = [key: keyof RunConfig, ok: (v: number) => boolean, need: string];

const count = (v: number): boolean => Number.isInteger(v) && v >= 1;
const countOrZero = (v: number): boolean => Number.isInteger(v) && v >= 0;

const rules: Rule[] = [
  ['steps', count, 'a whole number >= 1'],
  ['batch', count, 'a whole number >= 1'],
  ['gradAccum', count, 'a whole number >= 1'],
  ['evalEvery', countOrZero, 'a whole number >= 0'],
  ['evalBatches', count, 'a whole number >= 1'],
  ['saveEvery', countOrZero, 'a whole number >= 0'],
  ['keep', count, 'a whole number >= 1'],
  ['tp', count, 'a whole number >= 1'],
  ['pp', count, 'a whole number >= 1'],
  ['virtual', count, 'a whole number >= 1'],
  ['zero', (v) => v === 0 || v === 1 || v === 2, '0, 1 or 2'],
  ['warmupSteps', countOrZero, 'a whole number >= 0'],
  ['seed', (v) => Number.isSafeInteger(v) && v >= 0, 'a whole number from 0 to 2^53 - 1'],
  ['lr', (v) => v > 0 && v < Infinity, 'a number above 0'],
  ['minLrRatio', (v) => v >= 0 && v <= 1, 'a number from 0 to 1'],
  ['weightDecay', (v) => v >= 0 && v < Infinity, 'a number >= 0'],
  ['maxGradNorm', (v) => v >= 0 && v < Infinity, 'a number >= 0 (0 switches clipping off)'],
  ['valFraction', (v) => v > 0 && v < 1, 'a number between 0 and 1'],
];

/**
 * Fills in defaults and checks every field.
 * @throws UserError naming the field, its value and what it may be; an unknown field gets the nearest known one
 */
export function checkRunConfig(partial: Partial<RunConfig>): RunConfig {
  for (const key of Object.keys(partial)) {
    if (!Object.hasOwn(defaultRun, key)) {
      throw new UserError(`run config: "${key}" is unknown; there are ${Object.keys(defaultRun).join(', ')}`);
    }
  }
  const given = Object.fromEntries(Object.entries(partial).filter(([, v]) => v !== undefined));
  const config: RunConfig = { ...defaultRun, ...given };
  for (const [key, ok, need] of rules) {
    const value = config[key];
    if (typeof value !== 'number' || !ok(value))
      throw new UserError(`run config: ${key} is ${String(value)}; need ${need}`);
  }
  for (const key of ['seq', 'dp'] as const) {
    const value = config[key];
    if (value !== null && !count(value))
      throw new UserError(`run config: ${key} is ${value}; need a whole number >= 1`);
  }
  if (config.layout !== null && !(Array.isArray(config.layout) && config.layout.every(countOrZero)))
    throw new UserError(`run config: layout is ${String(config.layout)}; need whole numbers of layers, or null`);
  if (![true, false, 'full', 'attention', 'mlp'].includes(config.recompute))
    throw new UserError(`run config: recompute is ${config.recompute}; need true, false, full, attention or mlp`);
  if (!Object.hasOwn(recipes, config.recipe)) {
    throw new UserError(`recipe "${config.recipe}" is unknown; there are ${Object.keys(recipes).join(', ')}`);
  }
  if (config.payloads !== null && !Object.hasOwn(payloadSets, config.payloads)) {
    throw new UserError(
      `run config: payloads is "${config.payloads}"; there are ${Object.keys(payloadSets).join(', ')}, or null`,
    );
  }
  if (typeof config.model === 'string' && !Object.hasOwn(presets, config.model)) {
    throw new UserError(`preset "${config.model}" is unknown; there are ${Object.keys(presets).join(', ')}`);
  }
  if (!['cosine', 'wsd', 'constant'].includes(config.schedule)) {
    throw new UserError(`run config: schedule is "${config.schedule}"; there are cosine, wsd, constant`);
  }
  if (config.resume && config.out === null)
    throw new UserError('run config: resume needs out, the folder to resume from');
  return config;
}

/** The recipe of a run, with the payloads it asks for. */
export function recipeOf({ recipe, payloads }: Pick<RunConfig, 'recipe' | 'payloads'>): Recipe {
  const named = recipeNamed(recipe);
  return payloads === null ? named : { ...named, parallel: payloadSets[payloads] };
}

/** For a run file: `export default defineRun({ model: 'gpt-12m', recipe: 'o2', data: './text' })`. */
export const defineRun = (config: Partial<RunConfig>): Partial<RunConfig> => config;
