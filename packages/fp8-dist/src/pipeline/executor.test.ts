import { describe, expect, it } from 'vitest';
import { type Job, type Outcome, runOn } from '../../test/ranks/pipeline.ts';
import { Group } from '../group.ts';
import { runThreads } from '../threads.ts';

const module = new URL('../../test/ranks/pipeline.ts', import.meta.url);

/** @returns outcomes by job, then by rank */
async function onRanks(ranks: number, jobs: readonly Job[]): Promise<Outcome[][]> {
  const results = await runThreads<Outcome[]>(ranks, module, jobs);
  return jobs.map((_, i) => results.map((r) => r[i]));
}

/** The same model on one rank: one chunk, the micro-batches in order. */
const alone = (job: Job): Outcome =>
  runOn(Group.single(), { ...job, options: { microbatches: job.options.microbatches } });

const job = (options: Job['options'], recipe = 'fp32'): Job => ({ options, recipe, numLayers: 12 });

describe('a pipeline', () => {
  const cases: [ranks: number, jobs: Job[]][] = [
    [
      2,
      [
        job({ microbatches: 4 }),
        job({ microbatches: 4 }, 'o2'),
        job({ microbatches: 4, virtual: 2 }, 'o2'),
        job({ microbatches: 5, virtual: 3, groupSize: 3 }),
        job({ microbatches: 3, name: 'gpipe' }),
      ],
    ],
    [3, [job({ microbatches: 2 }, 'bf16'), job({ microbatches: 6, virtual: 2 })]],
    [4, [job({ microbatches: 5 })]],
  ];
  it.each(cases)('of %i ranks gives the bits of one rank and leaves nothing behind', async (ranks, jobs) => {
    const outcomes = await onRanks(ranks, jobs);
    jobs.forEach((j, i) => {
      const what = `${ranks} ranks, ${JSON.stringify(j)}`;
      const results = outcomes[i];
      const want = alone(j);
      expect(results.at(-1)?.losses, what).toEqual(want.losses);
      const gradients = Object.assign({}, ...results.map((r) => r.gradients));
      expect(Object.keys(gradients).sort(), what).toEqual(Object.keys(want.gradients).sort());
      expect(gradients, what).toEqual(want.gradients);
      for (const r of [...results, want]) expect(r.left, what).toBe(0);
    });
  });

  it('keeps what its schedule says, and learns the same from FP8 between stages', async () => {
    const [few, many, all, plain, fp8] = await onRanks(2, [
      job({ microbatches: 4 }),
      job({ microbatches: 12 }),
      job({ microbatches: 12, name: 'gpipe' }),
      { ...job({ microbatches: 4 }), numLayers: 4 },
      { ...job({ microbatches: 4 }), numLayers: 4, fp8: true },
    ]);
    const peaks = (outcomes: Outcome[]): number[] => outcomes.map((o) => o.peak);
    // 1f1b: as many micro-batches as there are stages, however many there are in the step.
    expect(peaks(many)).toEqual(peaks(few));
    expect(all[0].peak / many[0].peak).toBeGreaterThan(4);
    fp8[1].losses.forEach((loss, i) => expect(Math.abs(loss - plain[1].losses[i])).toBeLessThan(0.05));
    expect(fp8[1].losses).not.toEqual(plain[1].losses);
    const [a, b] = [plain[0].gradients.wte, fp8[0].gradients.wte];
    const dot = (x: number[], y: number[]): number => x.reduce((sum, v, i) => sum + v * y[i], 0);
    expect(dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b))).toBeGreaterThan(0.99);
  });

  it('ends on every rank with the cause when a stage fails in the middle of a step', async () => {
    await expect(onRanks(2, [{ ...job({ microbatches: 6 }), fails: 1 }])).rejects.toThrow(/a bug in a stage|rank 1/);
  });
});
