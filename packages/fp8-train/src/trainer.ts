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
  type Tensor,
} from 'fp8-core';
import {
  type Boundary,
  DataParallel,
  Mesh,
  Pipeline,
  type PipelineProgram,
  type PipelineTrace,
  sumNumbers,
} from 'fp8-dist';
import type { Recompute } from 'fp8-models';
import type { AdamW } from 'fp8-optim';
import type { Batch } from './data/index.ts';

/** What the trainer needs of a model; `Gpt` is one, a run file may bring its own. */
export interface LanguageModel {
  readonly context: ModelContext;
  parameters(): Parameter[];
  loss(tokens: Tensor, targets: Tensor, numTargets: number, options?: LossOptions): Tensor;
  makeCaches?(batch: number, maxSeq: number): KvCache[];
  logits?(tokens: Tensor, caches: KvCache[], start: number): Tensor;
  /** On a pipeline: what this rank holds, in the order a micro-batch visits it. */
  readonly chunks?: readonly ModelChunk[];
  /** On a pipeline: shape of the hidden states between places. */
  boundaryShape?(seq: number, batch: number): number[];
}

/** The part of a model at one place of a pipeline. */
export interface ModelChunk {
  /**
   * @param x tokens i32 [T, B] where the model begins, else hidden states
   * @param answers where the model ends
   * @returns hidden states, or the loss f32 [1]
   */
  forwardPart(x: Tensor, answers: { targets: Tensor; numTargets: number } | null, options?: LossOptions): Tensor;
}

export interface LossOptions {
  gradScale?: number;
  dropoutKey?: number;
  recompute?: boolean | Recompute;
}

export interface TrainerOptions {
  /** Sequences a micro-batch. */
  batch: number;
  /** Tokens a sequence. */
  seq: number;
  /** Micro-batches a step. */
  gradAccum?: number;
  recompute?: boolean | Recompute;
  /** Between pipeline stages: activations in e4m3, their gradients in e5m2. */
  fp8Pipeline?: boolean;
}

/**
 * Milliseconds of one step by phase; `pipeline` is the wait for other stages, `exchange` the wait for gradients after backward,
 * `other` what is left.
 */
export interface Phases {
  forward: number;
  backward: number;
  pipeline: number;
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
  private readonly pipeline: Pipeline;
  private readonly chunks: readonly ModelChunk[];
  private readonly boundary: Boundary;
  /** What the last step did when on this rank's place in the pipeline. */
  trace: PipelineTrace | null = null;

  /** @param parallel the ranks that see other data; it must be the optimizer's exchange too */
  constructor(
    model: LanguageModel,
    optimizer: AdamW,
    options: TrainerOptions,
    parallel = new DataParallel(optimizer.parameters, Mesh.single()),
  ) {
    this.model = model;
    this.optimizer = optimizer;
    this.options = { gradAccum: 1, recompute: false, fp8Pipeline: false, ...options };
    this.parallel = parallel;
    this.parameters = optimizer.parameters;
    this.backend = model.context.backend;
    this.pipeline = new Pipeline(parallel.mesh.pp);
    this.chunks = model.chunks ?? [wholeChunk(model)];
    const { batch, seq, fp8Pipeline } = this.options;
    this.boundary = {
      backend: this.backend,
      shape: model.boundaryShape?.(seq, batch) ?? [],
      dtype: model.context.recipe.act,
      activations: fp8Pipeline ? 'e4m3' : null,
      gradients: fp8Pipeline ? 'e5m2' : null,
    };
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
    const { dp, pp, tpDp } = parallel.mesh;
    const batches = Array.from({ length: gradAccum }, next);
    parallel.begin();
    const { ownLoss, trace } = this.runMicroBatches(batches);
    const exchangeStart = performance.now();
    parallel.finish();
    const [lossSum] = sumNumbers(pp, sumNumbers(dp, [ownLoss]));
    const optimizerStart = performance.now();
    const { gradNorm, skipped } = this.optimizer.step(lr);
    const { scaling } = this.model.context;
    if (skipped) scaling.discard();
    else scaling.update(tpDp.size > 1 ? parallel.reduceMax : undefined);
    for (const p of this.parameters) p.zeroGrad();
    const end = performance.now();
    const phases: Phases = {
      forward: timeOf(trace, 'forward'),
      backward: timeOf(trace, 'backward'),
      pipeline: trace.waitMs,
      exchange: optimizerStart - exchangeStart,
      optimizer: end - optimizerStart,
      other: 0,
    };
    this.steps++;
    const stepMs = end - start;
    phases.other = stepMs - Object.values(phases).reduce((a, b) => a + b, 0);
    const tokens = batch * seq * gradAccum * dp.size;
    this.trace = trace;
    return { loss: lossSum / dp.size, gradNorm, skipped, tokens, stepMs, phases };
  }

  /** All micro-batches forward and backward, in the order of the schedule. @returns the loss where the model ends, else 0 */
  private runMicroBatches(batches: readonly Batch[]): { ownLoss: number; trace: PipelineTrace } {
    const { gradAccum, recompute } = this.options;
    const { dp } = this.parallel.mesh;
    const losses: number[] = Array(gradAccum).fill(0);
    const program: PipelineProgram = {
      forward: (micro, chunk, x) => {
        const dropoutKey = (this.steps * gradAccum + micro) * dp.size + dp.rank;
        const options = { gradScale: 1 / gradAccum, dropoutKey, recompute };
        return record(() => this.forwardChunk(chunk, x, batches[micro], options), x ? [x] : []);
      },
      backward: (run, dy, micro) => {
        if (!dy) losses[micro] = readScalar(run.output);
        return run.backward(dy, this.parallel.afterOp)[0] ?? null;
      },
    };
    const trace = this.pipeline.run(this.schedule(gradAccum), program, this.boundary);
    return { ownLoss: losses.reduce((sum, loss) => sum + loss / gradAccum, 0), trace };
  }

  private schedule(microbatches: number): { microbatches: number; virtual: number } {
    return { microbatches, virtual: this.chunks.length };
  }

  /** @param x hidden states from the place before; null where the model begins */
  private forwardChunk(chunk: number, x: Tensor | null, data: Batch, options?: LossOptions): Tensor {
    const { pp } = this.parallel.mesh;
    const isLast = pp.rank === pp.size - 1 && chunk === this.chunks.length - 1;
    const input = x ?? upload(this.backend, data, data.inputs);
    if (!isLast) return this.chunks[chunk].forwardPart(input, null, options);
    const targets = upload(this.backend, data, data.targets);
    const numTargets = Math.max(1, countTargets(data.targets));
    return this.chunks[chunk].forwardPart(input, { targets, numTargets }, options);
  }

  /**
   * Mean loss over the batches of all ranks, without gradients; leaves no trace in windows or random state.
   * @param batches this rank's share
   */
  evaluate(batches: Iterable<Batch>): number {
    let sum = 0;
    let count = 0;
    const { dp, pp } = this.parallel.mesh;
    // As many at a time as fill a pipeline; one rank takes them one by one.
    for (const group of inGroups(batches, 4 * pp.size)) {
      const program: PipelineProgram = {
        forward: (micro, chunk, x) => {
          const y = this.forwardChunk(chunk, x, group[micro]);
          const isLoss = pp.rank === pp.size - 1 && chunk === this.chunks.length - 1;
          if (isLoss) sum += readScalar(y) * Math.max(1, countTargets(group[micro].targets));
          return y;
        },
      };
      this.pipeline.run({ ...this.schedule(group.length), forwardOnly: true }, program, this.boundary);
      for (const { targets } of group) count += countTargets(targets);
    }
    const [allSum] = sumNumbers(pp, sumNumbers(dp, [sum]));
    return allSum / sumNumbers(dp, [count])[0];
  }
}

/** A model that is not on a pipeline, as its only chunk. */
const wholeChunk = (model: LanguageModel): ModelChunk => ({
  forwardPart(x, answers, options) {
    if (!answers) throw new Error('internal: a whole model needs targets');
    return model.loss(x, answers.targets, answers.numTargets, options);
  },
});

function* inGroups<T>(items: Iterable<T>, size: number): Generator<T[]> {
  let group: T[] = [];
  for (const item of items) {
    group.push(item);
    if (group.length < size) continue;
    yield group;
    group = [];
  }
  if (group.length) yield group;
}

const timeOf = ({ spans }: PipelineTrace, op: 'forward' | 'backward'): number =>
  spans.reduce((sum, s) => (s.op === op ? sum + s.end - s.begin : sum), 0);

/** @returns i32 [T, B] */
function upload(backend: Backend, { seqLen, batch }: Batch, values: Int32Array): Tensor {
  const t = inCategory('activations', () => empty(backend, [seqLen, batch], 'i32'));
  backend.write(t.handle, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  return t;
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
