import {
  chmodSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { init } from '../src/index.ts';
import { curveKeys, isLoopback, jobKeyFrom, newJobKey } from '../src/rendezvous/security.ts';
import { freePort, jobFolder, startRanks } from './processes.ts';

const saved = { ...process.env };
afterEach(() => {
  process.env = { ...saved };
});

/** TCP ports on which a process listens. */
function listening(pid: number): string[] {
  const inodes = new Set(
    readdirSync(`/proc/${pid}/fd`).map((fd) => {
      try {
        return /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1];
      } catch {
        return undefined;
      }
    }),
  );
  return ['tcp', 'tcp6'].flatMap((f) =>
    readFileSync(`/proc/${pid}/net/${f}`, 'utf8')
      .split('\n')
      .slice(1)
      .map((line) => line.trim().split(/\s+/))
      .filter((w) => w[3] === '0A' && inodes.has(w[9]))
      .map((w) => w[1]),
  );
}

describe('security by default', () => {
  it('refuses to go on a network without a key', async () => {
    Object.assign(process.env, { RANK: '0', WORLD_SIZE: '2', MASTER_ADDR: '192.0.2.1', MASTER_PORT: '29500' });
    await expect(init()).rejects.toThrow('the job has no key');
    process.env.MASTER_ADDR = '0.0.0.0';
    await expect(init()).rejects.toThrow('the job has no key');
  });

  it.skipIf(process.platform !== 'linux')(
    'listens on nothing but IPC in a local job, in a folder nobody else may enter',
    async () => {
      const { folder, done } = jobFolder();
      const ranks = startRanks(2, new URL('./ranks/loop.ts', import.meta.url), null, {
        FP8_JOB_FOLDER: folder,
        LOOP_STEPS: '1e9',
      });
      while (readdirSync(folder).length < 4) await new Promise((r) => setTimeout(r, 20));
      expect(statSync(folder).mode & 0o777).toBe(0o700);
      for (const { child } of ranks) expect(listening(child.pid as number)).toEqual([]);
      for (const { child } of ranks) child.kill('SIGKILL');
      await Promise.all(ranks.map((r) => r.ended));
      done();
    },
  );

  it('derives one pair of keys from the job key, and refuses files that others may read', async () => {
    const key = newJobKey();
    expect(curveKeys(key)).toEqual(curveKeys(key));
    expect(curveKeys(key).publicKey).toHaveLength(40);
    expect(curveKeys(key).secretKey).not.toBe(curveKeys(newJobKey()).secretKey);
    expect(() => curveKeys('short')).toThrow('expected 32');
    const folder = mkdtempSync(join(tmpdir(), 'fp8t-'));
    const file = join(folder, 'key');
    writeFileSync(file, `${key}\n`, { mode: 0o644 });
    chmodSync(file, 0o644);
    expect(() => jobKeyFrom({ FP8_JOB_KEY_FILE: file })).toThrow('may be read by others');
    chmodSync(file, 0o600);
    expect(jobKeyFrom({ FP8_JOB_KEY_FILE: file })).toBe(key);
    rmSync(folder, { recursive: true });
  });

  it('knows loopback', () => {
    expect(['127.0.0.1', '127.9.9.9', 'localhost', '::1'].every(isLoopback)).toBe(true);
    expect(['0.0.0.0', '127.example.org', '10.0.0.1', '*', ''].some(isLoopback)).toBe(false);
  });

  it('turns away a second process of the same rank and a job of another size', async () => {
    const port = `${await freePort()}`;
    const tcp = { MASTER_ADDR: '127.0.0.1', MASTER_PORT: port, FP8_RENDEZVOUS_TIMEOUT_MS: '20000', LOOP_STEPS: '2' };
    const module = new URL('./ranks/nothing.ts', import.meta.url);
    const [zero] = startRanks(1, module, null, { ...tcp, WORLD_SIZE: '3' });
    const [first] = startRanks(1, module, null, { ...tcp, WORLD_SIZE: '3', RANK: '1' });
    const [wrong] = startRanks(1, module, null, { ...tcp, WORLD_SIZE: '2', RANK: '1' });
    expect((await wrong.ended).err).toContain('it was started as one of 2 ranks, rank 0 as one of 3');
    const [second] = startRanks(1, module, null, { ...tcp, WORLD_SIZE: '3', RANK: '1' });
    const refused = await Promise.race([first.ended, second.ended]);
    expect(refused.err).toContain('rank 1 has already joined');
    const [two] = startRanks(1, module, null, { ...tcp, WORLD_SIZE: '3', RANK: '2' });
    const all = await Promise.all([zero, first, second, two].map((r) => r.ended));
    expect(all.map((e) => e.code).sort()).toEqual([0, 0, 0, 1]);
  });
});
