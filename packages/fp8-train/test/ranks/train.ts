// A rank that trains a tiny model on random tokens for a few steps, and tells what it ended with.
import { createHash } from 'node:crypto';
import { type LayerNorm, ledger, modelContext, recipeNamed } from 'fp8-core';
import { type Communicator, DataParallel, initializeModelParallel, type Mesh, type Work } from 'fp8-dist';
import { Gpt, type GptConfig } from 'fp8-models';
import { AdamW } from 'fp8-optim';
import {
  backendFor,
  type CheckpointFile,
  GatheredState,
  randomTokens,
  Sampler,
  stateOf,
  type TensorSource,
  Trainer,
  writeOrder,
} from 'fp8-train';

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
  /** SHA-256 of what this rank holds whole of weights, masters, moments, mu and windows, by name. */
  hashes: Record<string, string>;
  /** On rank 0: the same of all that a checkpoint has. */
  gathered: Record<string, string>;
  mus: number[];
  /** Exchanges of gradients in the last step, and how many of them began before backward had ended. */
  exchanges: { all: number; overlapped: number };
  bytes: { optimizer: number; gradients: number };
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

function inWriteOrder({ tensors }: CheckpointFile): TensorSource[] {
  const list = [...tensors];
  return writeOrder(list).map((i) => list[i]);
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
    gathered: {},
    exchanges: watchExchanges(mesh, parallel),
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
  const state = stateOf(model, optimizer);
  for (const { name, read, shard } of state) {
    if (!shard) result.hashes[name] = sha256(read());
    if (name.endsWith('.mu')) result.mus.push(new Float32Array(read().slice().buffer)[0]);
  }
  const whole = new GatheredState(mesh.world, state);
  if (mesh.world.rank > 0) whole.send();
  else for (const { name, bytes } of whole.files().flatMap(inWriteOrder)) result.gathered[name] = sha256(bytes());
  const live = ledger.live;
  result.bytes = { optimizer: live.optimizer - before.optimizer, gradients: live.gradients - before.gradients };
  optimizer.release();
  model.release();
  return result;
}

/** A weight that is NaN on this rank during one step, as a flipped bit would make it. @returns puts it back */
function poison(model: Gpt): () => void {
  const { data } = (model.lnf as LayerNorm).weight;
  const bytes = new Uint8Array(data.numBytes);
  data.backend.read(data.handle, bytes);
  const bad = new Float32Array(bytes.slice().buffer);
  bad[0] = Number.NaN;
  data.backend.write(data.handle, new Uint8Array(bad.buffer));
  return () => data.backend.write(data.handle, bytes);
}

/** Counts the exchanges of several tensors between `begin` and the end of `finish`. */
function watchExchanges({ dp }: Mesh, parallel: DataParallel): Trained['exchanges'] {
  const counts = { all: 0, overlapped: 0 };
  for (const name of ['allReduce', 'reduceToOwners'] as const) {
    const original = Object.getPrototypeOf(dp)[name] as (...args: unknown[]) => Work;
    Object.assign(dp, {
      [name]: (...args: unknown[]) => {
        if (Array.isArray(args[0])) counts.all++;
        return original.apply(dp, args);
      },
    });
  }
  const { begin, finish } = Object.getPrototypeOf(parallel) as DataParallel;
  parallel.begin = () => {
    counts.all = 0;
    begin.call(parallel);
  };
  parallel.finish = () => {
    counts.overlapped = counts.all;
    finish.call(parallel);
  };
  return counts;
}
