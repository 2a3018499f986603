// Ranks that train one model after the other, each in a layout of its own, on random tokens.
import { ledger, modelContext, recipeNamed } from 'fp8-core';
import { type Communicator, DataParallel, type Group, initializeModelParallel, Mesh } from 'fp8-dist';
import type { GptConfig, Recompute } from 'fp8-models';
import { AdamW } from 'fp8-optim';
import { backendFor, buildModel, randomTokens, Sampler, Trainer } from 'fp8-train';

export interface Case {
  model: GptConfig;
  recipe: string;
  steps: number;
  seq: number;
  /** Sequences a step, over all ranks and micro-batches. */
  sequences: number;
  /** Sequences a micro-batch. */
  batch: number;
  tp: number;
  pp: number;
  dp: number;
  virtual: number;
  sp: boolean;
  layout: number[] | null;
  recompute: boolean | Recompute;
  zero: 0 | 1 | 2;
  fp8Pipeline?: boolean;
}

export interface Learned {
  losses: number[];
  norms: number[];
  valLoss: number;
  bytes: { weights: number; gradients: number; optimizer: number; activationsPeak: number };
  /** Bytes of tensors that nobody freed. */
  left: number;
  /** The last step's share of time in which this rank neither ran forward nor backward, of the time of its micro-batches. */
  idle: number;
}

/** Runs the cases in turn on the first ranks, as many as each needs. @returns null where a rank had no part in one */
export default function learn(comm: Communicator, cases: Case[]): (Learned | null)[] {
  return cases.map((c) => {
    const size = c.tp * c.pp * c.dp;
    const group = comm.world.split(comm.rank < size ? 0 : null) as Group | null;
    return group && learnOn(initializeMesh(group, c), c);
  });
}

const initializeMesh = (group: Group, { tp, pp, virtual }: Case): Mesh =>
  initializeModelParallel(group, { tensor: tp, pipeline: pp, virtualPipeline: virtual });

/** The same on one rank, whatever the case's layout. */
export const alone = (c: Case): Learned =>
  learnOn(Mesh.single(), { ...c, tp: 1, pp: 1, dp: 1, virtual: 1, sp: false, layout: null, recompute: false, zero: 0 });

function learnOn(mesh: Mesh, c: Case): Learned {
  const before = ledger.total();
  const live = { ...ledger.live };
  const gradAccum = c.sequences / (c.batch * mesh.dp.size);
  const model = buildModel(modelContext(backendFor('auto'), recipeNamed(c.recipe), 7), c.model, c, mesh);
  const parallel = new DataParallel(model.parameters(), mesh, { zero: c.zero, bucketBytes: 65536 });
  const optimizer = new AdamW(model.parameters(), {}, parallel);
  const { seq, batch, recompute, fp8Pipeline } = c;
  const trainer = new Trainer(model, optimizer, { batch, seq, gradAccum, recompute, fp8Pipeline }, parallel);
  const share = { rank: mesh.dp.rank, worldSize: mesh.dp.size, seqLen: seq };
  const tokens = randomTokens(c.model.vocabSize, 3);
  const sampler = new Sampler(tokens, { ...share, seed: 5 });
  const learned: Learned = {
    losses: [],
    norms: [],
    valLoss: 0,
    bytes: { weights: 0, gradients: 0, optimizer: 0, activationsPeak: 0 },
    left: 0,
    idle: 0,
  };
  const activations = ledger.live.activations;
  for (let step = 0; step < c.steps; step++) {
    // The first step's peak has the buffers that later steps find made.
    if (step === 1) ledger.resetPeak();
    const { loss, gradNorm } = trainer.step(() => sampler.nextBatch(batch), 1e-3);
    learned.losses.push(loss);
    learned.norms.push(gradNorm);
  }
  const { spans, stepMs } = trainer.trace as NonNullable<typeof trainer.trace>;
  learned.idle = 1 - spans.reduce((sum, s) => sum + s.end - s.begin, 0) / stepMs;
  for (const key of ['weights', 'gradients', 'optimizer'] as const) learned.bytes[key] = ledger.live[key] - live[key];
  learned.bytes.activationsPeak = ledger.peak.activations - activations;
  const batches = Array.from({ length: 3 }, () => sampler.nextBatch(1));
  const evaluator = new Trainer(model, optimizer, { batch: 1, seq, gradAccum }, parallel);
  learned.valLoss = evaluator.evaluate(batches);
  optimizer.release();
  model.release();
  model.context.scaling.release();
  learned.left = ledger.total() - before;
  return learned;
}
