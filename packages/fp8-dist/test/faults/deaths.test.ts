// F1, F2, F3, F8: ranks that die, stop or hang. Each test has its control: the same job undisturbed ends well.
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { isRunning, leftovers, ownTmp, startJob, times, watchLag } from '../jobs.ts';

afterAll(() => {
  expect(leftovers()).toEqual([]);
  rmSync(ownTmp, { recursive: true, force: true });
});

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const detections: Record<string, number[]> = {};
afterAll(() => {
  for (const [name, list] of Object.entries(detections)) {
    list.sort((a, b) => a - b);
    console.log(
      `${name}: named after ${list[list.length >> 1]} ms (median), ${list.at(-1)} ms (largest) of ${list.length}`,
    );
  }
});

describe('a job', () => {
  it('ends well when nothing happens (control)', async () => {
    const job = startJob(4, { LOOP_STEPS: '30' });
    const { result, failures, lines } = await job.ended;
    job.clean();
    expect(failures).toEqual([]);
    expect(result).toEqual({ code: 0, culprit: null, cause: null, flight: [] });
    expect(lines.filter((l) => 'finished' in l.value)).toHaveLength(4);
  });

  for (let round = 0; round < times(3, 100); round++) {
    // Rank 0 holds the rendezvous store; the others must not wait on it.
    const victim = round % 4;
    it(`names rank ${victim} when it is killed (${round + 1})`, async () => {
      const job = startJob(4, {});
      const pids = await job.running;
      await pause(Math.random() * 300);
      const lag = watchLag();
      const killed = Date.now();
      process.kill(pids[victim], 'SIGKILL');
      const { result, failures, endedAt } = await job.ended;
      expect(result.code).toBe(137);
      expect(result.culprit).toBe(victim);
      expect(result.cause).toContain(`rank ${victim} (pid ${pids[victim]}) was killed by SIGKILL`);
      const held = 10 * lag();
      expect(endedAt - killed).toBeLessThan(5000 + held);
      expect(failures).toHaveLength(3);
      for (const f of failures) {
        expect(f.ranks, f.message).toEqual([victim]);
        expect(f.message).toContain(`rank ${victim} at pid ${pids[victim]}`);
        expect(f.message).toMatch(
          f.kind === 'peer-lost'
            ? /in allReduce\(sum, f32, \d+ elements\) #\d+ on world|between collectives/
            : /failed: /,
        );
        expect(f.at - killed).toBeLessThan(1000 + held);
        (detections['killed rank'] ??= []).push(f.at - killed);
        const record = readFileSync(join(job.flight, `flight-rank${f.failed}.jsonl`), 'utf8')
          .trim()
          .split('\n')
          .map((l) => JSON.parse(l));
        expect(record[0].message).toBe(f.message);
        expect(record.length).toBeGreaterThan(5);
      }
      for (const pid of pids) expect(isRunning(pid)).toBe(false);
      job.clean();
    });
  }

  for (let round = 0; round < times(1, 50); round++) {
    it(`names a stopped rank by its silence (${round + 1})`, async () => {
      const victim = (round + 2) % 4;
      const job = startJob(4, {});
      const pids = await job.running;
      const lag = watchLag();
      const stopped = Date.now();
      process.kill(pids[victim], 'SIGSTOP');
      const { failures, endedAt } = await job.ended;
      expect(failures).toHaveLength(3);
      const first = Math.min(...failures.map((f) => f.at));
      const held = 10 * lag();
      expect(first - stopped).toBeLessThan(3000 + held);
      (detections['stopped rank'] ??= []).push(first - stopped);
      for (const f of failures)
        expect(f.message).toMatch(new RegExp(`rank ${victim} at pid ${pids[victim]} is gone: no heartbeat for`));
      expect(endedAt - stopped).toBeLessThan(9000 + held);
      for (const pid of pids) expect(isRunning(pid)).toBe(false);
      job.clean();
    });
  }

  it('goes on when a rank is stopped for a second (control)', async () => {
    const job = startJob(2, { LOOP_STEPS: '4000' });
    const pids = await job.running;
    process.kill(pids[1], 'SIGSTOP');
    await pause(1000);
    process.kill(pids[1], 'SIGCONT');
    const { result, failures } = await job.ended;
    job.clean();
    expect(failures).toEqual([]);
    expect(result.code).toBe(0);
  });

  it('names a rank whose main thread spins as hung, not as gone', async () => {
    const job = startJob(3, { FP8_TIMEOUT_MS: '1500', LOOP_SPIN: '1:20' });
    const { failures, result } = await job.ended;
    job.clean();
    expect(failures.map((f) => f.failed).sort()).toEqual([0, 2]);
    const direct = failures.filter((f) => f.kind === 'timeout');
    expect(direct.length).toBeGreaterThan(0);
    for (const f of direct) {
      expect(f.ranks).toEqual([1]);
      expect(f.message).toMatch(
        /waiting for rank 1 at pid \d+ \(has not entered; alive, but its main thread has been busy outside of collectives for 1\.\d s at step 20: hung or slow\)/,
      );
    }
    expect(result.code).not.toBe(0);
  });

  it('passes on the exit code of the rank that ended first', async () => {
    const job = startJob(3, { LOOP_ENDS: '2:8:41' });
    const { result } = await job.ended;
    job.clean();
    expect(result.culprit).toBe(2);
    expect(result.code).toBe(41);
    expect(result.cause).toMatch(/rank 2 \(pid \d+\) ended with code 41/);
  });

  it('ends whole and clean when the launcher is asked to stop', async () => {
    const job = startJob(3, {});
    const pids = await job.running;
    const lag = watchLag();
    const asked = Date.now();
    job.stop();
    const { result, endedAt } = await job.ended;
    job.clean();
    expect(result.code).toBe(143);
    expect(endedAt - asked).toBeLessThan(10_000 + 10 * lag());
    for (const pid of pids) expect(isRunning(pid)).toBe(false);
  });
});
