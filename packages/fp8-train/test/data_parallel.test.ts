// Data parallelism and ZeRO on thread ranks, against one rank that sees the same sequences.
import { Mesh, runThreads } from 'fp8-dist';
import { type GptConfig, presets } from 'fp8-models';
import { expect, test, vi } from 'vitest';
import { type TrainJob, type Trained, trainOn } from './ranks/train.ts';

vi.setConfig({ testTimeout: 600_000 });

const model: GptConfig = {
  ...presets['gpt-nano'],
  vocabSize: 96,
  maxSeqLen: 16,
  numLayers: 3,
  numHeads: 2,
  numKvHeads: 2,
  hiddenSize: 32,
  ffnSize: 64,
};
const base: TrainJob = { model, recipe: 'o2', steps: 20, batch: 2, bucketBytes: 4096 };
const module = new URL('./ranks/train.ts', import.meta.url);

/** Runs the jobs on thread ranks. @returns for each job the results of all ranks */
async function onRanks(size: number, ...jobs: Partial<TrainJob>[]): Promise<Trained[][]> {
  const byRank = await runThreads<Trained[]>(
    size,
    module,
    jobs.map((job) => ({ ...base, ...job })),
  );
  return jobs.map((_, i) => byRank.map((results) => results[i]));
}

/** Names whose hashes differ between two ranks, of those that both hold; `control` has the norm of the last step. */
const differing = (a: Trained, b: Trained): string[] =>
  Object.keys(a.hashes).filter((name) => name !== 'control' && name in b.hashes && a.hashes[name] !== b.hashes[name]);

test('dp 2 x batch 4 follows dp 1 x batch 8 in float32 for 50 steps within 1e-5, overlapped and accumulated', async () => {
  const job = { recipe: 'fp32', steps: 50, batch: 4 };
  const one = trainOn(Mesh.single(), { ...base, ...job, batch: 8 });
  const variants = await onRanks(2, job, { ...job, batch: 2, gradAccum: 2 });
  for (const [two] of variants)
    one.losses.forEach((loss, i) => expect(Math.abs(two.losses[i] / loss - 1), `step ${i + 1}`).toBeLessThan(1e-5));
});

test('all ranks end with the same bits, and with ZeRO those bits too, in every kind of recipe', async () => {
  // Of `wide`, the embedding is more than a rank's share and is cut by rows, 1000 of them for 3 ranks.
  const wide = { ...model, vocabSize: 1000, numLayers: 1 };
  const kinds = [{ recipe: 'o2' }, { recipe: 'o3', model: wide }, { recipe: 'bf16', model: wide }];
  const job = { steps: 6, gradAccum: 2 };
  const jobs = kinds.flatMap((kind) => ([0, 1, 2] as const).map((zero) => ({ ...job, ...kind, zero })));
  const results = await onRanks(3, ...jobs);
  for (let i = 0; i < results.length; i += 3) {
    const [[first], , freeing] = results.slice(i, i + 3);
    expect(first.skipped).not.toContain(true);
    for (const [zero, ranks] of results.slice(i, i + 3).entries()) {
      for (const rank of ranks) {
        expect(rank.losses).toEqual(first.losses);
        expect(rank.norms).toEqual(first.norms);
        expect(differing(first, rank)).toEqual([]);
        expect(rank.exchanges.all).toBeGreaterThan(3);
        expect(rank.exchanges.overlapped).toBe(rank.exchanges.all);
        if (zero) expect(rank.bytes.optimizer).toBeLessThan(0.45 * first.bytes.optimizer);
      }
      expect(ranks[0].gathered).toEqual(first.gathered);
    }
    expect(Object.keys(first.gathered).sort()).toEqual(Object.keys(first.hashes).sort());
    for (const { bytes } of freeing) expect(bytes.gradients).toBeLessThan(0.6 * first.bytes.gradients);
  }
});

test('mu starts at 1/sqrt(ranks) and grows by 2^(1/1000) or is halved in a step, the same on all ranks', async () => {
  const [ranks] = await onRanks(2, { steps: 1 });
  const [{ mus }] = ranks;
  for (const mu of mus) {
    const start = Math.fround(Math.SQRT1_2);
    expect([start / 2, Math.fround(start * Math.fround(2 ** (1 / 1000)))]).toContain(mu);
  }
  for (const rank of ranks) expect(rank.mus).toEqual(mus);
});

test('a NaN on one rank skips the step on all, and leaves all bits as they were', async () => {
  const poison = { rank: 1, step: 3 };
  const jobs = ([0, 1] as const).flatMap((zero) => [
    { steps: 4, zero, poison },
    { steps: 2, zero },
    { steps: 3, zero, poison },
  ]);
  const results = await onRanks(2, ...jobs);
  for (let i = 0; i < results.length; i += 3) {
    const [ranks, [before], [after]] = results.slice(i, i + 3);
    for (const { skipped } of ranks) expect(skipped).toEqual([false, false, true, false]);
    expect(differing(ranks[0], ranks[1])).toEqual([]);
    expect(differing(before, after)).toEqual([]);
  }
});
