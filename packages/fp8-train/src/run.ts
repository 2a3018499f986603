// A training run from configuration to summary. Everything a person or a script sees is an event; nothing is printed here.
import { ledger, modelContext, UserError } from 'fp8-core';
import { DataParallel } from 'fp8-dist';
import { checkConfig, type GptConfig, presetNamed, type Tokenizer } from 'fp8-models';
import { AdamW, constant, cosine, type Schedule, wsd } from 'fp8-optim';
import { backendFor } from './backend.ts';
import { evalBatches, Sampler } from './data/index.ts';
import type { Checkpoint } from './files/index.ts';
import { buildModel, checkLayout } from './layout.ts';
import { Ranks } from './ranks.ts';
import { openResumed, restoreRun, RunSaver } from './run_checkpoints.ts';
import { checkRunConfig, recipeOf, type RunConfig } from './run_config.ts';
import type { MemorySummary, RunEvent, RunSummary } from './run_events.ts';
import { openData } from './text_data.ts';
import { Trainer, type TrainStep } from './trainer.ts';
import {
  assignWeights,
  checkpointTokenizer,
  checkpointWeights,
  checkSameModel,
  modelOfWeights,
  openWeights,
  type Weights,
} from './weights.ts';

/** Skipped steps in a row after which a run has diverged. */
const maxSkipped = 20;

/**
 * Trains a model.
 * @param partial what differs from `defaultRun`
 * @param on hears every event, in order; on ranks other than the first it hears the same steps and evaluations
 * @param signal when aborted, on any rank, the run finishes its step, saves (with `out`) and returns
 * @param ranks the ranks that train together; every rank makes the same call
 * @throws UserError for a configuration, data, checkpoint or disk that cannot be used
 */
export async function runTraining(
  partial: Partial<RunConfig>,
  on: (event: RunEvent) => void = () => {},
  signal?: AbortSignal,
  ranks = Ranks.alone(),
): Promise<RunSummary> {
  const config = checkRunConfig(withInitModel(partial));
  const model = modelConfigOf(config);
  const seqLen = config.seq ?? model.maxSeqLen;
  checkLayout(config, model);
  if (seqLen > model.maxSeqLen) throw new UserError(`seq ${seqLen} exceeds the model's ${model.maxSeqLen} positions`);
  const backend = backendFor(config.device);
  const resumed = config.out !== null && config.resume ? openResumed(config.out, ranks, on) : null;
  const init = ranks.together(() => initialWeights(config, model, resumed));
  const dataOptions = {
    ...config,
    vocabSize: model.vocabSize,
    seqLen,
    folder: ranks.sharedFolder(config.out),
    fixed: ranks.together(() => fixedTokenizer(config, resumed, init)),
    onNote: (text: string) => on({ type: 'note', text }),
  };
  const data = ranks.firstThenOthers(() => openData(dataOptions));
  try {
    return await train({ config, model, seqLen, backend, data, resumed, init, on, signal, ranks });
  } finally {
    data.close();
    init?.close();
    resumed?.close();
  }
}

/** A run configuration with the model of its `init`, unless it has one of its own. */
export function withInitModel(partial: Partial<RunConfig>): Partial<RunConfig> {
  const { init, model } = partial;
  return typeof init === 'string' && model === undefined ? { ...partial, model: modelOfWeights(init) } : partial;
}

/** Weights to start from: an imported model is resumed as if it was `init`. */
function initialWeights({ init }: RunConfig, model: GptConfig, resumed: Checkpoint | null): Weights | null {
  if (resumed && !resumed.json.imported) return null;
  const weights = resumed ? checkpointWeights(resumed) : init === null ? null : openWeights(init);
  if (weights) checkSameModel(weights, model);
  return weights;
}

/** Finds before any rank is started what is wrong with a run's `init`. @throws UserError as `runTraining` does */
export function checkInit(config: RunConfig): void {
  const init = initialWeights(config, modelConfigOf(config), null);
  try {
    fixedTokenizer(config, null, init);
  } finally {
    init?.close();
  }
}

/** The tokenizer that the run must go on with. */
function fixedTokenizer(
  { tokenizer, data }: RunConfig,
  resumed: Checkpoint | null,
  init: Weights | null,
): Tokenizer | undefined {
  const own = resumed ? checkpointTokenizer(resumed) : tokenizer === 'bpe' ? init?.tokenizer : null;
  if (init && !own && tokenizer === 'bpe' && data !== 'random')
    throw new UserError(
      `${init.path} has no tokenizer; give one with --tokenizer <folder with a tokenizer.json>, or byte`,
    );
  return own ?? undefined;
}

/** The model of a run configuration, checked. */
export const modelConfigOf = (config: RunConfig): GptConfig =>
  checkConfig(typeof config.model === 'string' ? presetNamed(config.model) : config.model);

interface Job {
  config: RunConfig;
  model: GptConfig;
  seqLen: number;
  backend: ReturnType<typeof backendFor>;
  data: ReturnType<typeof openData>;
  resumed: Checkpoint | null;
  init: Weights | null;
  on: (event: RunEvent) => void;
  signal: AbortSignal | undefined;
  ranks: Ranks;
}

async function train({
  config,
  model: modelConfig,
  seqLen,
  backend,
  data,
  resumed,
  init,
  on,
  signal,
  ranks,
}: Job): Promise<RunSummary> {
  const { steps, batch, gradAccum, recompute, fp8Pipeline } = config;
  ledger.resetPeak();
  const model = buildModel(modelContext(backend, recipeOf(config), config.seed), modelConfig, config, ranks.mesh);
  if (init) ranks.together(() => assignWeights(init, model.parameters()));
  const parallel = new DataParallel(model.parameters(), ranks.mesh, { zero: config.zero });
  const optimizer = new AdamW(model.parameters(), config, parallel);
  const trainer = new Trainer(model, optimizer, { batch, seq: seqLen, gradAccum, recompute, fp8Pipeline }, parallel);
  const { dp } = ranks.mesh;
  const share = { seqLen, rank: dp.rank, worldSize: dp.size };
  const sampler = new Sampler(data.train, { ...share, seed: config.seed });
  const state = { model, optimizer, trainer, sampler };
  if (resumed && !init) ranks.together(() => restoreRun(resumed, state));
  const saver = new RunSaver(ranks, config, modelConfig, data.tokenizer);
  backend.trim();
  const schedule = scheduleOf(config);
  const params = ranks.countParameters(model);
  on({
    type: 'start',
    recipe: config.recipe,
    backend: backend.describe(),
    ranks: ranks.describe(config),
    params,
    steps,
    firstStep: trainer.steps,
    tokensPerStep: batch * seqLen * gradAccum * dp.size,
    vocabSize: modelConfig.vocabSize,
    trainTokens: data.train.numTokens,
    valTokens: data.val?.numTokens ?? 0,
    data: data.description,
  });

  const record: TrainStep[] = [];
  let valLoss: number | null = null;
  let evaluatedAt = -1;
  const evaluate = (): void => {
    if (!data.val || evaluatedAt === trainer.steps) return;
    valLoss = trainer.evaluate(evalBatches(data.val, { ...share, batch, maxBatches: config.evalBatches }));
    evaluatedAt = trainer.steps;
    on({ type: 'eval', step: trainer.steps, valLoss });
  };
  const save = (): void => saver.save(state, on);

  try {
    let skippedInARow = 0;
    let stopped = ranks.any(signal?.aborted === true);
    while (trainer.steps < steps && !stopped) {
      ranks.setStep(trainer.steps + 1);
      const lr = schedule(trainer.steps);
      const step = trainer.step(() => sampler.nextBatch(batch), lr);
      record.push(step);
      on({
        type: 'step',
        step: trainer.steps,
        lr,
        ...step,
        tokensPerSecond: perSecond(step),
        memoryBytes: ledger.total(),
      });
      skippedInARow = step.skipped ? skippedInARow + 1 : 0;
      if (skippedInARow === maxSkipped) {
        throw new UserError(
          `${maxSkipped} steps in a row had a non-finite gradient norm; the run has diverged (lower --lr)`,
        );
      }
      if (config.evalEvery && trainer.steps % config.evalEvery === 0) evaluate();
      if (config.saveEvery && trainer.steps % config.saveEvery === 0) save();
      // One turn of the event loop a step, so that signals and timers are heard.
      await new Promise((resolve) => setImmediate(resolve));
      stopped = ranks.any(signal?.aborted === true);
    }
    if (!stopped) evaluate();
    save();
    const summary: RunSummary = {
      recipe: config.recipe,
      params,
      tokensPerSecond: median(record.slice(record.length > 1 ? 1 : 0).map(perSecond)),
      lossFirst: record[0]?.loss ?? Number.NaN,
      lossLast: record.at(-1)?.loss ?? Number.NaN,
      valLoss,
      memory: ranks.largestOf(memorySummary()),
      comm: ranks.largestOf(ranks.traffic()),
    };
    on({ type: 'summary', summary });
    return summary;
  } finally {
    optimizer.release();
    model.release();
    model.context.scaling.release();
    backend.trim();
  }
}

const perSecond = (s: TrainStep): number => (s.tokens / s.stepMs) * 1000;

function median(values: number[]): number {
  if (values.length === 0) return 0;
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Bytes by category as the ledger has them now. */
export function memorySummary(): MemorySummary {
  const { weights, gradients, optimizer } = ledger.live;
  return { weights, gradients, optimizer, activationsPeak: ledger.peak.activations, totalPeak: ledger.totalPeak };
}

function scheduleOf({ schedule, lr, steps: totalSteps, warmupSteps, minLrRatio: minRatio }: RunConfig): Schedule {
  return { cosine, wsd, constant }[schedule]({
    lr,
    totalSteps,
    warmupSteps: Math.min(warmupSteps, totalSteps),
    minRatio,
  });
}
