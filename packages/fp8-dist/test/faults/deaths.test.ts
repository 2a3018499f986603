// F1, F2, F3, F8, F9: ranks that die, stop or hang, and jobs that are asked to end. Each fault has its controls: the job undisturbed
// ends well, and the job without the protection is not found in time. FAULTS=all: full size; FAULTS_ROUNDS=first:last takes a slice;
// FAULTS_LOG=file collects all times as JSON lines.
import { appendFileSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { isRunning, leftovers, ownTmp, percentiles, rounds, startJob, unprotected, watchLag } from '../jobs.ts';

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const detections: Record<string, number[]> = {};
const lags: number[] = [];
function note(name: string, ms: number): void {
  (detections[name] ??= []).push(ms);
  if (process.env.FAULTS_LOG) appendFileSync(process.env.FAULTS_LOG, `${JSON.stringify({ name, ms })}\n`);
}
const shared = () => readdirSync('/dev/shm').filter((f) => f.includes('fp8'));

afterAll(() => {
  for (const [name, list] of Object.entries(detections)) console.log(`${name} ${percentiles(list)}`);
  if (lags.length) console.log(`meanwhile this process itself was held up, at most: ${percentiles(lags)}`);
  expect(leftovers()).toEqual([]);
  expect(shared()).toEqual([]);
  rmSync(ownTmp, { recursive: true, force: true });
});

/** Ten times what this process was held up by: what a limit in real time must allow for on a busy machine. */
function stopwatch(): () => number {
  const lag = watchLag();
  return () => {
    const ms = lag();
    lags.push(ms);
    if (process.env.FAULTS_LOG) note('(this process held up)', ms);
    return 10 * ms;
  };
}

describe('a job', () => {
  it('ends well when nothing happens (control)', async () => {
    const job = startJob(4, { LOOP_STEPS: '30' });
    const { result, failures, lines } = await job.ended;
    job.clean();
    expect(failures).toEqual([]);
    expect(result).toEqual({ code: 0, culprit: null, cause: null, flight: [] });
    expect(lines.filter((l) => 'finished' in l.value)).toHaveLength(4);
  });

  for (const round of rounds(3, 100)) {
    // Rank 0 holds the rendezvous store; the others must not wait on it.
    const victim = round % 4;
    it(`names rank ${victim} when it is killed (${round + 1})`, async () => {
      const job = startJob(4, {});
      const pids = await job.running;
      await pause(Math.random() * 300);
      const held = stopwatch();
      const killed = Date.now();
      process.kill(pids[victim], 'SIGKILL');
      const { result, failures, endedAt } = await job.ended;
      const allowance = held();
      expect(result.code).toBe(137);
      expect(result.culprit).toBe(victim);
      expect(result.cause).toContain(`rank ${victim} (pid ${pids[victim]}) was killed by SIGKILL`);
      note('killed rank: job ended after', endedAt - killed);
      expect(endedAt - killed).toBeLessThan(5000 + allowance);
      expect(failures).toHaveLength(3);
      for (const f of failures) {
        expect(f.ranks, f.message).toEqual([victim]);
        expect(f.message).toContain(`rank ${victim} at pid ${pids[victim]}`);
        expect(f.message).toMatch(
          f.kind === 'peer-lost'
            ? /in allReduce\(sum, f32, \d+ elements\) #\d+ on world|between collectives/
            : /failed: /,
        );
        note('killed rank: named by each other rank after', f.at - killed);
        expect(f.at - killed).toBeLessThan(1000 + allowance);
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

  it('does not name a killed rank when nobody watches (control)', async () => {
    const job = startJob(4, unprotected('liveness'));
    const pids = await job.running;
    process.kill(pids[2], 'SIGKILL');
    const { failures, result } = await job.ended;
    job.clean();
    // The launcher still sees it, and ends the others.
    expect(failures).toEqual([]);
    expect(result.code).toBe(137);
  });

  for (const round of rounds(1, 50)) {
    it(`names a stopped rank by its silence (${round + 1})`, async () => {
      const victim = (round + 2) % 4;
      const job = startJob(4, {});
      const pids = await job.running;
      await pause(Math.random() * 300);
      const held = stopwatch();
      const stopped = Date.now();
      process.kill(pids[victim], 'SIGSTOP');
      const { failures, endedAt } = await job.ended;
      expect(failures).toHaveLength(3);
      const allowance = held();
      for (const f of failures) {
        expect(f.at - stopped).toBeLessThan(3000 + allowance);
        note('stopped rank: named by each other rank after', f.at - stopped);
        expect(f.message).toMatch(new RegExp(`rank ${victim} at pid ${pids[victim]} is gone: no heartbeat for`));
      }
      expect(endedAt - stopped).toBeLessThan(9000 + allowance);
      for (const pid of pids) expect(isRunning(pid)).toBe(false);
      job.clean();
    });
  }

  it('does not find a stopped rank when nobody watches (control)', async () => {
    const job = startJob(2, { ...unprotected('liveness'), FP8_TIMEOUT_MS: '6000' });
    const pids = await job.running;
    const stopped = Date.now();
    process.kill(pids[1], 'SIGSTOP');
    const { failures } = await job.ended;
    job.clean();
    expect(failures).toHaveLength(1);
    expect(failures[0].kind).toBe('timeout');
    expect(failures[0].at - stopped).toBeGreaterThan(3000);
  });

  it('goes on when a rank is stopped for a second (control)', async () => {
    const job = startJob(2, { LOOP_STEPS: '1000' });
    const pids = await job.running;
    process.kill(pids[1], 'SIGSTOP');
    await pause(1000);
    process.kill(pids[1], 'SIGCONT');
    const { result, failures } = await job.ended;
    job.clean();
    expect(failures).toEqual([]);
    expect(result.code).toBe(0);
  });

  for (const round of rounds(2, 50)) {
    const how = round % 2 ? 'native' : 'spin';
    it(`names a rank as hung, not as gone, when its main thread ${how === 'spin' ? 'spins' : 'is in a native call that does not return'} (${round + 1})`, async () => {
      const held = stopwatch();
      const job = startJob(3, { FP8_TIMEOUT_MS: '1500', LOOP_HANG: `1:20:${how}` });
      const { failures, lines, result } = await job.ended;
      job.clean();
      const hung = lines.find((l) => 'hangs' in l.value)?.value.hangs as number;
      const allowance = held();
      expect(failures.map((f) => f.failed).sort()).toEqual([0, 2]);
      for (const f of failures) {
        expect(f.at - hung).toBeLessThan(1500 + 3000 + allowance);
        note('hung rank: named, beyond the deadline, after', f.at - hung - 1500);
      }
      const direct = failures.filter((f) => f.kind === 'timeout');
      expect(direct.length).toBeGreaterThan(0);
      for (const f of direct) {
        expect(f.ranks).toEqual([1]);
        expect(f.message).toMatch(
          /waiting for rank 1 at pid \d+ \(has not entered; alive, but its main thread has been busy outside of collectives for \d+\.\d s at step 20: hung or slow\)/,
        );
      }
      expect(result.code).not.toBe(0);
    });
  }

  it('waits for ever for a hung rank without deadlines (control)', async () => {
    const job = startJob(3, { ...unprotected('deadlines'), FP8_TIMEOUT_MS: '1500', LOOP_HANG: '1:20:spin' });
    await job.running;
    await pause(9000);
    job.stop();
    const { failures } = await job.ended;
    job.clean();
    expect(failures.filter((f) => f.kind === 'timeout')).toEqual([]);
  });

  it('passes on the exit code of the rank that ended first', async () => {
    const job = startJob(3, { LOOP_ENDS: '2:8:41' });
    const { result } = await job.ended;
    job.clean();
    expect(result.culprit).toBe(2);
    expect(result.code).toBe(41);
    expect(result.cause).toMatch(/rank 2 \(pid \d+\) ended with code 41/);
  });

  for (const round of rounds(1, 50)) {
    it(`ends whole and clean when the launcher is asked to stop (${round + 1})`, async () => {
      const job = startJob(3, {});
      const pids = await job.running;
      const held = stopwatch();
      const asked = Date.now();
      job.stop();
      const { result, endedAt } = await job.ended;
      job.clean();
      expect(result.code).toBe(143);
      note('asked to stop: job ended after', endedAt - asked);
      expect(endedAt - asked).toBeLessThan(10_000 + held());
      for (const pid of pids) expect(isRunning(pid)).toBe(false);
    });
  }
});
