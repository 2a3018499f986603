// A rank that trains a tiny model on random tokens for a few steps, and tells what it ended with.
import { createHash } from 'node:crypto';
import { ledger, modelContext, recipeNamed } from 'fp8-core';
import { type Communicator, DataParallel, initializeModelParallel, type Mesh } from 'fp8-dist';
import { Gpt, type GptConfig } from 'fp8-models';
import { AdamW } from 'fp8-optim';
import { backendFor, randomTokens, Sampler, stateOf, Trainer } from 'fp8-train';

export interface TrainJob {
  model: GptConfig;
  recipe: string;
  steps: number;
  batch: number;
  gradAccum?: number;
  zero?: 0 | 1 | 2;
  /** Overlap is tested with buckets far smaller than the default. */
  bucketBytes?: number;
  lr?: number;
  /** The rank whose gradient has a NaN, and at which step. */
  poison?: { rank: number; step: number };
}

export interface Trained {
  losses: number[];
  norms: number[];
  skipped: boolean[];
  /** SHA-256 of weights, masters, moments, mu and windows of this rank, by name. */
  hashes: Record<string, string>;
  mus: number[];
  bytes: { optimizer: number; gradients: number };
}

/** Several runs one after the other, as starting threads costs more than the runs. */
export default function trainRank(comm: Communicator, jobs: TrainJob[]): Trained[] {
  const mesh = initializeModelParallel(comm);
  return jobs.map((job) => trainOn(mesh, job));
}

export function trainOn(mesh: Mesh, job: TrainJob): Trained {
  const { batch, gradAccum = 1, zero = 0, bucketBytes } = job;
  const seqLen = job.model.maxSeqLen;
  const before = { ...ledger.live };
  const model = new Gpt(modelContext(backendFor('auto'), recipeNamed(job.recipe), 7), job.model);
  const parallel = new DataParallel(model.parameters(), mesh, { zero, bucketBytes });
  const optimizer = new AdamW(model.parameters(), {}, parallel);
  const trainer = new Trainer(model, optimizer, { batch, seq: seqLen, gradAccum }, parallel);
  const { rank, size } = mesh.dp;
  const sampler = new Sampler(randomTokens(job.model.vocabSize, 3), { seqLen, seed: 5, rank, worldSize: size });
  const result: Trained = {
    losses: [],
    norms: [],
    skipped: [],
    hashes: {},
    mus: [],
    bytes: { optimizer: 0, gradients: 0 },
  };
  for (let step = 1; step <= job.steps; step++) {
    const poisoned = job.poison?.rank === rank && job.poison.step === step;
    const restore = poisoned ? poison(model) : null;
    const { loss, gradNorm, skipped } = trainer.step(() => sampler.nextBatch(batch), job.lr ?? 3e-3);
    restore?.();
    result.losses.push(loss);
    result.norms.push(gradNorm);
    result.skipped.push(skipped);
  }
  for (const { name, read } of stateOf(model, optimizer)) {
    result.hashes[name] = createHash('sha256').update(read()).digest('hex');
    if (name.endsWith('.mu')) result.mus.push(new Float32Array(read().slice().buffer)[0]);
  }
  const live = ledger.live;
  result.bytes = { optimizer: live.optimizer - before.optimizer, gradients: live.gradients - before.gradients };
  optimizer.release();
  model.release();
  return result;
}

/** A weight that is NaN on this rank during one step, as a flipped bit would make it. @returns puts it back */
function poison(model: Gpt): () => void {
  const { data } = model.lnf.weight;
  const bytes = new Uint8Array(data.numBytes);
  data.backend.read(data.handle, bytes);
  const bad = new Float32Array(bytes.slice().buffer);
  bad[0] = Number.NaN;
  data.backend.write(data.handle, new Uint8Array(bad.buffer));
  return () => data.backend.write(data.handle, bytes);
}
