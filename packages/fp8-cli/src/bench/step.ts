// Training steps on random tokens, taken apart: by phase as the trainer times them, and by kernel as the backend counts them.
import { type Backend, ledger, modelContext, type Profile, recipeNamed, UserError } from 'fp8-core';
import { checkConfig, countParameters, Gpt, type GptConfig, presets } from 'fp8-models';
import { AdamW } from 'fp8-optim';
import {
  backendFor,
  formatBytes,
  formatCount,
  type MemorySummary,
  memorySummary,
  type Phases,
  randomTokens,
  Sampler,
  Trainer,
  type TrainStep,
} from 'fp8-train';
import type { BenchStepOptions } from '../commands/bench.ts';
import { facts, print, printJson, table } from '../output.ts';
import { unknownWord } from '../suggest.ts';

export interface KernelTime {
  name: string;
  /** A step. */
  calls: number;
  /** A step. */
  ms: number;
  /** Of the step's time. */
  share: number;
}

export interface StepResult {
  preset: string;
  recipe: string;
  /** Medians over the measured steps. */
  tokensPerSecond: number;
  stepMs: number;
  /** Mean, not median. */
  meanMs: number;
  phases: Phases;
  /** Of the step's time; null where the backend keeps no profile. */
  outsideKernelsShare: number | null;
  kernels: KernelTime[];
  memory: MemorySummary;
  rssBytes: number;
  params: number;
  /** Of the model: products forward and backward, attention as causal (half); recomputation not counted. */
  gflops: number;
  peakGflops: number | null;
  fractionOfPeak: number | null;
  batch: number;
  seq: number;
  gradAccum: number;
  steps: number;
  backend: string;
}

/** `fp8lm bench step` and `bench kernels`. */
export function benchStep(options: BenchStepOptions, show: 'phases' | 'kernels'): void {
  const result = measureStep(options);
  if (options.json) {
    return printJson(show === 'phases' ? { ...result, kernels: result.kernels.slice(0, options.top) } : result);
  }
  const { preset, recipe, batch, seq, gradAccum, backend, params } = result;
  const shape = `batch ${batch}${gradAccum > 1 ? ` x ${gradAccum}` : ''}, sequence ${seq}`;
  print(`${preset} (${formatCount(params)} parameters), recipe ${recipe}, ${shape}; ${backend}`);
  if (show === 'phases') print(phasesText(result));
  print();
  print(kernelsText(result, options.top));
}

/** What `measureStep` needs; `model` goes before the preset of that name. */
export type StepOptions = Omit<BenchStepOptions, 'top' | 'json'> & { model?: GptConfig };

/** @throws UserError for an unknown preset or recipe, or a sequence longer than the model's */
export function measureStep(options: StepOptions): StepResult {
  const { preset, recipe, device, gradAccum, recompute = false, steps, warmup } = options;
  if (!options.model && !Object.hasOwn(presets, preset))
    throw new UserError(unknownWord('preset', preset, Object.keys(presets)));
  const config = checkConfig(options.model ?? presets[preset]);
  const seq = options.seq ?? Math.min(256, config.maxSeqLen);
  if (seq > config.maxSeqLen) throw new UserError(`--seq ${seq} exceeds the model's ${config.maxSeqLen} positions`);
  const backend = backendFor(device);
  const model = new Gpt(modelContext(backend, recipeNamed(recipe), 1), config);
  const params = countParameters(model);
  const batch = options.batch ?? (params > 50e6 ? 4 : 8);
  const optimizer = new AdamW(model.parameters());
  const trainer = new Trainer(model, optimizer, { batch, seq, gradAccum, recompute });
  const sampler = new Sampler(randomTokens(config.vocabSize, 1), { seqLen: seq, seed: 1 });
  const run = (): TrainStep => trainer.step(() => sampler.nextBatch(batch), 1e-4);
  for (let i = 0; i < warmup; i++) run();
  // Casts are just in time for the first 16 steps; what is measured is what a step costs after them.
  if (warmup > 0) model.context.scaling.endWarmup();
  ledger.resetPeak();

  const profiled = hasProfile(backend) ? backend : null;
  const arithmetic = recipe === 'fp32' ? 'f32' : 'bf16';
  const peaks: number[] = [];
  const measurePeak = (): void => void (profiled?.peakGflops && peaks.push(profiled.peakGflops(arithmetic, 0.1)));
  measurePeak();
  profiled?.resetProfile();
  const record: TrainStep[] = [];
  for (let i = 0; i < steps; i++) record.push(run());
  const profile = profiled?.profile() ?? {};
  measurePeak();

  const stepMs = median(record.map((s) => s.stepMs));
  const total = record.reduce((sum, s) => sum + s.stepMs, 0);
  const kernels = Object.entries(profile)
    .filter(([, [calls]]) => calls > 0)
    .map(([name, [calls, ms]]) => ({ name, calls: calls / steps, ms: ms / steps, share: ms / total }))
    .sort((x, y) => y.ms - x.ms);
  const phase = (name: keyof Phases): number => median(record.map((s) => s.phases[name]));
  const gflops = (stepFlops(config, params, batch * gradAccum, seq) / stepMs) * 1e-6;
  const peakGflops = peaks.length > 0 ? Math.max(...peaks) : null;
  const memory = memorySummary();
  const rssBytes = process.memoryUsage.rss();
  optimizer.release();
  model.release();
  model.context.scaling.release();
  backend.trim();
  return {
    preset,
    recipe,
    tokensPerSecond: ((batch * seq * gradAccum) / stepMs) * 1000,
    stepMs,
    meanMs: total / steps,
    phases: {
      forward: phase('forward'),
      backward: phase('backward'),
      pipeline: phase('pipeline'),
      exchange: phase('exchange'),
      optimizer: phase('optimizer'),
      other: phase('other'),
    },
    outsideKernelsShare: profiled ? 1 - kernels.reduce((sum, kernel) => sum + kernel.share, 0) : null,
    kernels,
    memory,
    rssBytes,
    params,
    gflops,
    peakGflops,
    fractionOfPeak: peakGflops === null ? null : gflops / peakGflops,
    batch,
    seq,
    gradAccum,
    steps,
    backend: backend.describe(),
  };
}

interface Profiled extends Backend {
  profile(): Profile;
  resetProfile(): void;
  peakGflops?(arithmetic: 'bf16' | 'f32', seconds?: number): number;
}

const hasProfile = (backend: Backend): backend is Profiled => 'profile' in backend;

/** Multiplications and additions of one step's products: 6 a weight and token, and attention's two products. */
function stepFlops(c: GptConfig, params: number, sequences: number, seq: number): number {
  const tokens = sequences * seq;
  const lookedUp =
    (c.position === 'learned' ? c.maxSeqLen * c.hiddenSize : 0) + (c.tied ? 0 : c.vocabSize * c.hiddenSize);
  const attention = 6 * c.numLayers * sequences * seq * seq * c.hiddenSize; // 2 products x 2 x T^2 C / 2, three times
  return 6 * (params - lookedUp) * tokens + attention;
}

function phasesText({ stepMs, tokensPerSecond, phases, ...rest }: StepResult): string {
  const { gflops, peakGflops, fractionOfPeak, outsideKernelsShare, memory, rssBytes } = rest;
  const ms = (value: number): string => `${value.toFixed(1)} ms (${((100 * value) / stepMs).toFixed(1)} %)`;
  const ofPeak =
    peakGflops === null || fractionOfPeak === null
      ? ''
      : `, ${fractionOfPeak.toFixed(3)} of the measured peak of ${peakGflops.toFixed(0)}`;
  return facts([
    ['step', `${stepMs.toFixed(1)} ms, ${formatCount(tokensPerSecond)} tokens/s`],
    ['forward', ms(phases.forward)],
    ['backward', ms(phases.backward)],
    ['optimizer', ms(phases.optimizer)],
    ['other', ms(phases.other)],
    ...(outsideKernelsShare === null
      ? []
      : ([['outside kernels', `${(100 * outsideKernelsShare).toFixed(1)} %`]] as const)),
    ['arithmetic', `${gflops.toFixed(1)} GFLOP/s${ofPeak}`],
    [
      'memory',
      `weights ${formatBytes(memory.weights)}, gradients ${formatBytes(memory.gradients)}, optimizer ${formatBytes(memory.optimizer)}, activations ${formatBytes(memory.activationsPeak)} (peak)`,
    ],
    ['resident set', formatBytes(rssBytes)],
  ]);
}

function kernelsText({ kernels, backend }: StepResult, top: number): string {
  if (kernels.length === 0) return `  ${backend} keeps no profile of its kernels`;
  const rows = kernels
    .slice(0, top)
    .map(({ name, calls, ms, share }) => [name, calls.toFixed(0), ms.toFixed(2), `${(100 * share).toFixed(1)} %`]);
  return table([['kernel', 'calls', 'ms a step', 'share'], ...rows]);
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
