// One training step: micro-batches forward and backward, with the exchange of gradients behind the last one's backward; then the
// optimizer, then the amax windows. Synchronous throughout.
import {
  type Backend,
  empty,
  inCategory,
  type KvCache,
  type ModelContext,
  type Parameter,
  record,
  scope,
  type Tensor,
} from 'fp8-core';
import { DataParallel, Mesh, sumNumbers } from 'fp8-dist';
import type { AdamW } from 'fp8-optim';
import type { Batch } from './data/index.ts';

/** What the trainer needs of a model; `Gpt` is one, a run file may bring its own. */
export interface LanguageModel {
  readonly context: ModelContext;
  parameters(): Parameter[];
  loss(tokens: Tensor, targets: Tensor, numTargets: number, options?: LossOptions): Tensor;
  makeCaches?(batch: number, maxSeq: number): KvCache[];
  logits?(tokens: Tensor, caches: KvCache[], start: number): Tensor;
}

export interface LossOptions {
  gradScale?: number;
  dropoutKey?: number;
  recompute?: boolean;
}

export interface TrainerOptions {
  /** Sequences a micro-batch. */
  batch: number;
  /** Tokens a sequence. */
  seq: number;
  /** Micro-batches a step. */
  gradAccum?: number;
  recompute?: boolean;
}

/** Milliseconds of one step by phase; `exchange` is the wait for gradients after backward, `other` what is left. */
export interface Phases {
  forward: number;
  backward: number;
  exchange: number;
  optimizer: number;
  other: number;
}

export interface TrainStep {
  /** Mean over the step's tokens of all ranks, in nats. */
  loss: number;
  gradNorm: number;
  skipped: boolean;
  /** Of all ranks. */
  tokens: number;
  stepMs: number;
  phases: Phases;
}

export class Trainer {
  readonly model: LanguageModel;
  readonly optimizer: AdamW;
  readonly options: Required<TrainerOptions>;
  readonly parallel: DataParallel;
  /** Steps done, skipped ones included. */
  steps = 0;
  private readonly parameters: readonly Parameter[];
  private readonly backend: Backend;

  /** @param parallel the ranks that see other data; it must be the optimizer's exchange too */
  constructor(
    model: LanguageModel,
    optimizer: AdamW,
    options: TrainerOptions,
    parallel = new DataParallel(optimizer.parameters, Mesh.single()),
  ) {
    this.model = model;
    this.optimizer = optimizer;
    this.options = { gradAccum: 1, recompute: false, ...options };
    this.parallel = parallel;
    this.parameters = optimizer.parameters;
    this.backend = model.context.backend;
  }

  /**
   * Runs one step.
   * @param next gives the next micro-batch; called `gradAccum` times
   * @param lr learning rate of this step
   */
  step(next: () => Batch, lr: number): TrainStep {
    const start = performance.now();
    const { batch, seq, gradAccum } = this.options;
    const { parallel } = this;
    const { dp } = parallel.mesh;
    const phases: Phases = { forward: 0, backward: 0, exchange: 0, optimizer: 0, other: 0 };
    let ownLoss = 0;
    for (let micro = 0; micro < gradAccum; micro++) {
      const isLast = micro === gradAccum - 1;
      if (isLast) parallel.begin();
      const dropoutKey = (this.steps * gradAccum + micro) * dp.size + dp.rank;
      ownLoss += this.microStep(next(), dropoutKey, phases, isLast ? parallel.afterOp : undefined) / gradAccum;
    }
    const exchangeStart = performance.now();
    parallel.finish();
    const [lossSum] = sumNumbers(dp, [ownLoss]);
    const optimizerStart = performance.now();
    const { gradNorm, skipped } = this.optimizer.step(lr);
    const { scaling } = this.model.context;
    if (skipped) scaling.discard();
    else scaling.update(dp.size > 1 ? parallel.reduceMax : undefined);
    for (const p of this.parameters) p.zeroGrad();
    const end = performance.now();
    phases.exchange = optimizerStart - exchangeStart;
    phases.optimizer = end - optimizerStart;
    this.steps++;
    const stepMs = end - start;
    phases.other = stepMs - phases.forward - phases.backward - phases.exchange - phases.optimizer;
    const tokens = batch * seq * gradAccum * dp.size;
    return { loss: lossSum / dp.size, gradNorm, skipped, tokens, stepMs, phases };
  }

  private microStep(data: Batch, dropoutKey: number, phases: Phases, afterOp?: () => void): number {
    const { gradAccum, recompute } = this.options;
    return scope(() => {
      const { tokens, targets, numTargets } = upload(this.backend, data);
      const begin = performance.now();
      const options = { gradScale: 1 / gradAccum, dropoutKey, recompute };
      const run = record(() => this.model.loss(tokens, targets, numTargets, options));
      const middle = performance.now();
      run.backward(null, afterOp);
      phases.forward += middle - begin;
      phases.backward += performance.now() - middle;
      return readScalar(run.output);
    });
  }

  /**
   * Mean loss over the batches of all ranks, without gradients; leaves no trace in windows or random state.
   * @param batches this rank's share
   */
  evaluate(batches: Iterable<Batch>): number {
    let sum = 0;
    let count = 0;
    for (const data of batches) {
      sum += scope(() => {
        const { tokens, targets, numTargets } = upload(this.backend, data);
        return readScalar(this.model.loss(tokens, targets, numTargets)) * numTargets;
      });
      count += countTargets(data.targets);
    }
    const [allSum, allCount] = sumNumbers(this.parallel.mesh.dp, [sum, count]);
    return allSum / allCount;
  }
}

function upload(backend: Backend, { inputs, targets, seqLen, batch }: Batch) {
  const put = (values: Int32Array): Tensor => {
    const t = inCategory('activations', () => empty(backend, [seqLen, batch], 'i32'));
    backend.write(t.handle, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    return t;
  };
  return { tokens: put(inputs), targets: put(targets), numTargets: Math.max(1, countTargets(targets)) };
}

/** Targets that are not ignored. */
function countTargets(targets: Int32Array): number {
  let count = 0;
  for (const t of targets) if (t >= 0) count++;
  return count;
}

function readScalar(t: Tensor): number {
  const value = new Float32Array(1);
  t.backend.read(t.handle, new Uint8Array(value.buffer));
  return value[0];
}
