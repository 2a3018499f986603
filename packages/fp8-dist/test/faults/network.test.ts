// F4, F6 between two machines: network namespaces of their own, a launcher on each, CURVE on. FAULTS=all: full size, FAULTS_ROUNDS=first:last a
// slice of the cuts; F6 runs FAULTS_MINUTES (30). Skipped where namespaces cannot be made (not root, no `ip` or `nft`).
import { existsSync, mkdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import { curveKeys, newJobKey } from '../../src/rendezvous/security.ts';
import { isRunning, leftovers, ownTmp, percentiles, rounds, times, unprotected, watchLag } from '../jobs.ts';
import { type MachineJob, type Machines, networkMissing, startMachines, twoMachines } from '../network.ts';

const missing = networkMissing();
if (missing) console.log(`skipped: two machines cannot be made here: ${missing}`);
const full = process.env.FAULTS === 'all';
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

afterAll(() => {
  expect(leftovers()).toEqual([]);
  rmSync(ownTmp, { recursive: true, force: true });
});

/** Runs `body` with two machines, and takes them away whatever happens. */
async function withMachines<T>(body: (machines: Machines) => Promise<T>): Promise<T> {
  const machines = twoMachines();
  try {
    return await body(machines);
  } finally {
    machines.remove();
  }
}

async function finished(job: MachineJob) {
  const { codes, failures, lines, err, reports } = await job.ended;
  const ends = lines.filter((l) => 'finished' in l.value).map((l) => l.value as { steps: number; digest: number });
  return { codes, failures, ends, err, reports, digests: [...new Set(ends.map((e) => e.digest))] };
}

describe.skipIf(missing)('between two machines', { timeout: full ? 7_200_000 : 240_000 }, () => {
  it('a job goes on to the same bits when the cable is out for a second or less, encrypted by default', async () => {
    await withMachines(async (machines) => {
      const env = { LOOP_STEPS: '200', LOOP_PACE: '5' };
      const calm = await finished(startMachines(machines, 2, env));
      expect(calm).toMatchObject({ codes: [0, 0], failures: [], reports: [] });
      expect(calm.digests).toHaveLength(1);
      const silences: number[] = [];
      for (const round of rounds(2, 50)) {
        const job = startMachines(machines, 2, env);
        await job.running;
        await pause(Math.random() * 300);
        // Every third cut takes the whole second.
        const ms = round % 3 === 1 ? 1000 : 100 + Math.random() * 900;
        machines.plugged(false);
        await pause(ms);
        machines.plugged(true);
        const cut = await finished(job);
        expect(cut, `cut of ${ms} ms: ${cut.reports}`).toMatchObject({ codes: [0, 0], failures: [], reports: [] });
        expect(cut.ends).toHaveLength(4);
        expect(cut.digests).toEqual(calm.digests);
        silences.push(...cut.ends.map((e) => (e as unknown as { longestSilenceMs: number }).longestSilenceMs));
      }
      console.log(`cuts of up to a second: longest silence of a rank ${percentiles(silences)}`);
    });
  });

  it('a job whose rank is killed starts again on both, to the same bits', async () => {
    await withMachines(async (machines) => {
      const env = { LOOP_STEPS: '100', LOOP_PACE: '5' };
      const calm = await finished(startMachines(machines, 2, env));
      for (let round = 0; round < times(1, 20); round++) {
        const job = startMachines(machines, 2, env, { maxRestarts: 1 });
        const pids = await job.running;
        await pause(Math.random() * 300);
        process.kill(pids[3 - (round % 4)], 'SIGKILL');
        const again = await finished(job);
        expect(again.codes, again.err).toEqual([0, 0]);
        expect(again.err.match(/starting again \(1 of 1/g), again.err).toHaveLength(2);
        expect(again.ends).toHaveLength(4);
        expect(again.digests).toEqual(calm.digests);
      }
    });
  });

  it('connections closed under load lose, double and shift nothing', async () => {
    await withMachines(async (machines) => {
      const wanted = times(15, 300);
      // Longer than the cuts take; the sums of every step are checked, and folded into the digest.
      const env = { LOOP_STEPS: `${times(150, 3000)}`, LOOP_PACE: '20', LOOP_LARGE: '100000' };
      const job = startMachines(machines, 2, env);
      await job.running;
      let cuts = 0;
      for (let i = 0; cuts < wanted && i < 4 * wanted; i++) {
        cuts += machines.closeConnections((i % 2) as 0 | 1);
        await pause(200);
      }
      const { codes, failures, ends, digests } = await finished(job);
      console.log(`${cuts} connections closed in ${ends[0]?.steps} steps`);
      expect(failures).toEqual([]);
      expect(codes).toEqual([0, 0]);
      expect(cuts).toBeGreaterThanOrEqual(wanted);
      expect(digests).toHaveLength(1);
      const calm = await finished(startMachines(machines, 2, { ...env, LOOP_PACE: '0' }));
      expect(digests).toEqual(calm.digests);
    });
  });

  it('closed connections end a job that repeats nothing (control)', async () => {
    await withMachines(async (machines) => {
      const env = { ...unprotected('repeats'), LOOP_LARGE: '200000', FP8_TIMEOUT_MS: '4000' };
      const job = startMachines(machines, 1, env);
      await job.running;
      for (let i = 0; i < 20; i++) {
        machines.closeConnections((i % 2) as 0 | 1);
        await pause(100);
      }
      const { failures } = await job.ended;
      expect(failures.some((f) => f.kind === 'timeout')).toBe(true);
    });
  });

  it('the key of a job is in no argument, log or flight record', async () => {
    await withMachines(async (machines) => {
      const key = newJobKey();
      const job = startMachines(machines, 1, {}, { key });
      const pids = await job.running;
      const commands = [...pids, ...job.launchers].map((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8'));
      process.kill(pids[0], 'SIGKILL');
      const { written, failures } = await job.ended;
      expect(failures).toHaveLength(1);
      expect(written).toContain('is gone');
      const keys = curveKeys(key);
      for (const secret of [key, keys.secretKey, Buffer.from(key, 'base64url').toString('hex')]) {
        expect(written.includes(secret)).toBe(false);
        for (const command of commands) expect(command.includes(secret)).toBe(false);
      }
      // The control: it is where it must be, in the environment that only this user reads.
      expect(commands.join()).toContain('--master');
    });
  });

  for (const way of ['cable out', 'one way blocked'] as const) {
    it(`a lasting cut is named on both machines (${way})`, async () => {
      const found: number[] = [];
      await withMachines(async (machines) => {
        for (const _ of rounds(1, 25)) {
          machines.plugged(true);
          machines.loss(0);
          const job = startMachines(machines, 2, {});
          const pids = await job.running;
          await pause(Math.random() * 300);
          const lag = watchLag();
          const cut = Date.now();
          if (way === 'cable out') machines.plugged(false);
          else machines.loss(100, 1);
          const { failures, codes } = await job.ended;
          const held = 10 * lag();
          expect(failures).toHaveLength(4);
          for (const f of failures) {
            // The far ranks are accused; blocked one way, the side that hears accuses as it is told.
            expect(f.message).toMatch(/is gone: (no heartbeat for|its connection closed)/);
            expect(f.at - cut).toBeLessThan(3000 + held);
            if (way === 'cable out') for (const r of f.ranks) expect(r < 2).toBe(f.failed >= 2);
            found.push(f.at - cut);
          }
          expect(codes).toEqual([3, 3]);
          for (const pid of pids) expect(isRunning(pid)).toBe(false);
        }
      });
      console.log(`${way}: named after ${percentiles(found)}`);
    });
  }

  it('without heartbeats a cut is not named in time (control)', async () => {
    await withMachines(async (machines) => {
      const job = startMachines(machines, 1, { FP8_DEAD_AFTER_MS: '600000', FP8_TIMEOUT_MS: '6000' });
      await job.running;
      const cut = Date.now();
      machines.plugged(false);
      const { failures } = await job.ended;
      expect(failures.length).toBeGreaterThan(0);
      for (const f of failures) expect(f.at - cut).toBeGreaterThan(3000);
    });
  });

  it('losing 30 % of all packets, with one rank at 20 % of a CPU, accuses nobody', async () => {
    const seconds = full ? 60 * Number(process.env.FAULTS_MINUTES ?? 30) : 15;
    const quota = cpuQuota(20);
    try {
      await withMachines(async (machines) => {
        // Deadlines as in production: five minutes.
        const env = { LOOP_SECONDS: `${seconds}`, LOOP_PACE: '20', LOOP_LARGE: '10000', FP8_TIMEOUT_MS: '' };
        const job = startMachines(machines, 2, env);
        const pids = await job.running;
        quota.add(pids[3]);
        machines.loss(30);
        await pause(1000 * seconds);
        // TCP needs minutes to say farewell through such losses; that is not the point here.
        machines.loss(0);
        const { codes, failures, ends, reports } = await finished(job);
        console.log(`30 % loss for ${seconds} s: ${JSON.stringify(ends)}`);
        expect(reports).toEqual([]);
        expect(failures).toEqual([]);
        expect(codes).toEqual([0, 0]);
        expect(new Set(ends.map((e) => e.digest)).size).toBe(1);
      });
    } finally {
      quota.remove();
    }
  });

  it('losses do raise an alarm where TCP alone carries the heartbeats (control)', async () => {
    await withMachines(async (machines) => {
      // Datagrams off: everything that is not TCP is dropped.
      const job = startMachines(machines, 1, { LOOP_SECONDS: '120', LOOP_LARGE: '10000', FP8_TIMEOUT_MS: '' });
      await job.running;
      machines.loss(40);
      machines.blockDatagrams();
      const { failures } = await job.ended;
      expect(failures.some((f) => f.message.includes('no heartbeat for'))).toBe(true);
    });
  });
});

/** A cgroup (version 1) that may use so many percent of one CPU. */
function cpuQuota(percent: number) {
  const folder = `/sys/fs/cgroup/cpu/fp8t${process.pid}`;
  const possible = existsSync('/sys/fs/cgroup/cpu/cpu.cfs_quota_us');
  if (possible) {
    mkdirSync(folder);
    writeFileSync(`${folder}/cpu.cfs_period_us`, '100000');
    writeFileSync(`${folder}/cpu.cfs_quota_us`, `${1000 * percent}`);
  } else console.log('no cgroup of version 1 for the CPU here: the slow rank is left out');
  return {
    add: (pid: number) => possible && writeFileSync(`${folder}/cgroup.procs`, `${pid}`),
    remove: () => possible && rmdirSync(folder),
  };
}
