// F7: one rank calls something else. Both sides and both calls are named within a second of the disagreement. FAULTS=all: 100;
// FAULTS_ROUNDS=first:last takes some of them.
import { rmSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import { ownTmp, percentiles, rounds, startJob, unprotected, watchLag } from '../jobs.ts';

const kinds = ['shape', 'dtype', 'operation', 'reduction', 'order', 'group', 'step'];
const cases = rounds(7, 100).map((i) => ({ kind: kinds[i % kinds.length], victim: i % 2, step: 3 + (i % 11) }));
const found: number[] = [];
afterAll(() => {
  if (found.length) console.log(`disagreement named on each side after ${percentiles(found)}`);
  rmSync(ownTmp, { recursive: true, force: true });
});

describe('a disagreement', () => {
  for (const { kind, victim, step } of cases) {
    it(`of ${kind} by rank ${victim} at step ${step} is named on both sides`, async () => {
      const lag = watchLag();
      const job = startJob(2, { LOOP_DISAGREE: `${victim}:${step}:${kind}`, LOOP_STEPS: '40' });
      const { failures, lines, err } = await job.ended;
      job.clean();
      const held = 10 * lag();
      const start = lines.find((l) => 'disagreed' in l.value)?.value.disagreed as number;
      expect(failures.length, err).toBe(2);
      for (const f of failures) {
        expect(f.at - start).toBeLessThan(1000 + held);
        found.push(f.at - start);
        expect(['mismatch', 'aborted', 'peer-lost']).toContain(f.kind);
        expect(f.message).toContain('rank 0');
        expect(f.message).toContain('rank 1');
      }
      expect(
        failures.some((f) => f.kind === 'mismatch'),
        JSON.stringify(failures),
      ).toBe(true);
    });
  }

  it('ends at the deadline, unnamed, when nobody compares (control)', async () => {
    const env = {
      ...unprotected('agreement'),
      FP8_LANE: '0',
      LOOP_DISAGREE: '1:5:dtype',
      LOOP_STEPS: '40',
      FP8_TIMEOUT_MS: '3000',
    };
    const job = startJob(2, env);
    const { failures } = await job.ended;
    job.clean();
    expect(failures.length).toBeGreaterThan(0);
    expect(failures.filter((f) => f.kind === 'mismatch')).toEqual([]);
  });
});
