// Training steps on a layout of tensor (and other) parallel ranks: the losses of every step and what the exchanges cost.
import { createHash } from 'node:crypto';
import { dtypes, ledger, modelContext, type ParallelPayloads, recipeNamed, type Tensor } from 'fp8-core';
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
  lr?: number;
}

export interface TensorResult {
  losses: number[];
  norms: number[];
  evaluated: number;
  /** Bytes this rank sent in forward and backward, headers included, in the steps after the first. */
  layerBytes: number;
  /** Scale of every tensor of a sharded parameter, by name. */
  scales: Record<string, number>;
  /** SHA-256 of what all ranks hold: replicated parameters, mu, windows. */
  same: Record<string, string>;
  /** Bytes of tensors that outlived the run. */
  leaked: number;
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
  const result: TensorResult = { losses: [], norms: [], evaluated: 0, layerBytes: 0, scales: {}, same: {}, leaked: 0 };
  const sent = (): number => comm?.traffic().sent ?? 0;
  // The trainer asks for the batches before forward, and calls `finish` after backward.
  let before = 0;
  const finish = parallel.finish.bind(parallel);
  parallel.finish = () => {
    result.layerBytes += sent() - before;
    finish();
  };
  for (let step = 0; step < job.steps; step++) {
    const next = () => {
      before = sent();
      return sampler.nextBatch(batch);
    };
    const { loss, gradNorm } = trainer.step(next, job.lr ?? 1e-3);
    if (step === 0) result.layerBytes = 0;
    result.losses.push(loss);
    result.norms.push(gradNorm);
  }
  describeState(result, model, optimizer);
  result.evaluated = trainer.evaluate([sampler.nextBatch(batch)]);
  optimizer.release();
  model.release();
  context.scaling.release();
  result.leaked = ledger.total();
  return result;
}

function describeState(result: TensorResult, model: Gpt, optimizer: AdamW): void {
  const hash = (t: Tensor): string => {
    const bytes = new Uint8Array(t.numBytes);
    t.backend.read(t.handle, bytes);
    return createHash('sha256').update(bytes).digest('hex');
  };
  for (const p of model.parameters()) {
    const { m, v } = optimizer.moments.get(p) as { m: Tensor; v: Tensor };
    const tensors = { data: p.data, master: p.master, m, v };
    for (const [what, t] of Object.entries(tensors)) {
      if (!t) continue;
      if (!p.shard) result.same[`${p.name} ${what}`] = hash(t);
      else if (dtypes[t.dtype].scaled) result.scales[`${p.name} ${what}`] = t.backend.readScale(t.handle)[0];
    }
    if (p.mu) result.same[`${p.name} mu`] = hash(p.mu);
  }
  for (const [site, window] of model.context.scaling.windows) result.same[`window ${site}`] = hash(window);
}

export { Mesh };
