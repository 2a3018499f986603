// Training steps on a layout of tensor (and other) parallel ranks: the losses of every step and what the exchanges cost.
import { modelContext, type ParallelPayloads, recipeNamed } from 'fp8-core';
import { type Communicator, DataParallel, initializeModelParallel, Mesh } from 'fp8-dist';
import { Gpt, type GptConfig } from 'fp8-models';
import { AdamW } from 'fp8-optim';
import { backendFor, randomTokens, Sampler, Trainer } from 'fp8-train';

export interface TensorJob {
  model: GptConfig;
  recipe: string;
  /** What differs from the recipe's payloads. */
  payloads?: Partial<ParallelPayloads>;
  tensor: number;
  sequenceParallel?: boolean;
  recompute?: boolean;
  steps: number;
  batch: number;
  seq: number;
  gradAccum?: number;
}

export interface TensorResult {
  losses: number[];
  norms: number[];
  evaluated: number;
  /** Bytes this rank sent in the steps after the first. */
  bytesSent: number;
}

export default function tensorRank(comm: Communicator, jobs: TensorJob[]): TensorResult[] {
  return jobs.map((job) => trainOn(initializeModelParallel(comm, { tensor: job.tensor }), job, comm));
}

/** @param comm null: one rank */
export function trainOn(mesh: Mesh, job: TensorJob, comm: Communicator | null = null): TensorResult {
  const { batch, seq, gradAccum = 1, sequenceParallel = false, recompute = false } = job;
  const named = recipeNamed(job.recipe);
  const recipe = { ...named, parallel: { ...named.parallel, ...job.payloads } };
  const context = modelContext(backendFor('auto'), recipe, 7);
  const model = new Gpt(context, job.model, undefined, { mesh, sequenceParallel });
  const parallel = new DataParallel(model.parameters(), mesh);
  const optimizer = new AdamW(model.parameters(), {}, parallel);
  const trainer = new Trainer(model, optimizer, { batch, seq, gradAccum, recompute }, parallel);
  const { rank, size } = mesh.dp;
  const sampler = new Sampler(randomTokens(job.model.vocabSize, 3), { seqLen: seq, seed: 5, rank, worldSize: size });
  const result: TensorResult = { losses: [], norms: [], evaluated: 0, bytesSent: 0 };
  let sent = 0;
  for (let step = 0; step < job.steps; step++) {
    const { loss, gradNorm } = trainer.step(() => sampler.nextBatch(batch), 1e-3);
    if (step === 0) sent = comm?.traffic().sent ?? 0;
    result.losses.push(loss);
    result.norms.push(gradNorm);
  }
  result.bytesSent = (comm?.traffic().sent ?? 0) - sent;
  result.evaluated = trainer.evaluate([sampler.nextBatch(batch)]);
  optimizer.release();
  model.release();
  context.scaling.release();
  return result;
}

export { Mesh };
