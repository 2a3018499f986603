// F7: one rank calls something else. Both sides and both calls are named within a second of the disagreement.
import { describe, expect, it } from 'vitest';
import { startJob, times, watchLag } from '../jobs.ts';

const kinds = ['shape', 'dtype', 'operation', 'reduction', 'order', 'group', 'step'];
const rounds = Array.from({ length: times(7, 100) }, (_, i) => ({
  kind: kinds[i % kinds.length],
  victim: i % 2,
  step: 3 + (i % 11),
}));

describe('a disagreement', () => {
  for (const { kind, victim, step } of rounds) {
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
});
