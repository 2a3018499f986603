// The lane through shared memory; that its sums are right is for conformance.test.ts, that deaths and disagreements on it are
// named for faults/.
import { closeSync, ftruncateSync, openSync, readdirSync, readSync, writeSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { findAddon } from '../src/init.ts';
import { loadCommAddon } from '../src/math/native.ts';
import { jobFolder, runProcesses, startRanks } from './processes.ts';

const module = new URL('./ranks/lane.ts', import.meta.url);
const there = process.platform === 'linux' && Boolean(loadCommAddon(await findAddon())?.laneCreate);
const all = process.env.FAULTS === 'all';

interface Sizes {
  files: number;
  bytes: number;
}
interface Ended {
  kind: string;
  ranks: number[];
  message: string;
  same: boolean;
}

describe.skipIf(!there)('the lane', () => {
  it('keeps memory and descriptors over many collectives', async () => {
    const results = await runProcesses<{ before: Sizes; after: Sizes }>(2, module, ['many', all ? 100_000 : 20_000]);
    for (const { before, after } of results) {
      expect(after.files).toBe(before.files);
      expect(after.bytes).toBeLessThan(before.bytes + (32 << 20));
    }
  });

  it('sums while the main thread computes', async () => {
    const results = await runProcesses(2, module, ['overlap', 3_000_001]);
    expect(results).toEqual([
      { arrived: true, all: true },
      { arrived: true, all: true },
    ]);
  });

  it('keeps groups apart and in order with more in flight than it has entries', async () => {
    expect(await runProcesses(3, module, ['crowd', 60])).toEqual([true, true, true]);
  });

  it('keeps sends between neighbours apart and in order', async () => {
    const right = { before: true, after: true };
    expect(await runProcesses(3, module, ['pairs', 40])).toEqual([right, right, right]);
    expect(await runProcesses(2, module, ['pairs', 40])).toEqual([right, right]);
  });

  it('carries what was sent while both main threads compute', async () => {
    const right = { arrived: true, all: true };
    expect(await runProcesses(2, module, ['posted', 3_000_001])).toEqual([right, right]);
  });

  it('names a send and a receive that differ, on both sides', async () => {
    for (const { kind, message } of await runProcesses<Ended>(2, module, ['unlike', 1])) {
      const text =
        '#1 between ranks 0 and 1 on two: rank (0|1) \\(this one\\) called send\\(f32, (8|9) elements\\), rank (0|1) called send\\(f32, (8|9) elements\\)';
      expect(`${kind}: ${message}`).toMatch(new RegExp(`^(mismatch|aborted): .*${text}`));
    }
    expect((await runProcesses<Ended>(2, module, ['unlike', 0])).map((r) => r.kind)).toEqual(['none', 'none']);
  });

  it('takes what is not damaged (control)', async () => {
    const results = await runProcesses<Ended>(2, module, ['damage', -1]);
    expect(results.map((r) => r.kind)).toEqual(['none', 'none']);
  });

  for (const [what, place, kind] of [
    ['data', 64 + 500, 'protocol'],
    ['a checksum', 16, 'protocol'],
    ['what was called', 24, 'protocol'],
    ['a number', 0, 'protocol'],
  ] as const) {
    it(`refuses damage of ${what} before it touches a tensor`, async () => {
      const [liar, victim] = await runProcesses<Ended>(2, module, ['damage', place]);
      expect(victim.kind).toBe(kind);
      expect(victim.ranks).toEqual([0]);
      expect(victim.message).toMatch(/^rank 0 at pid \d+: (sent data with a wrong checksum|wrote over a collective)/);
      expect(victim.same).toBe(true);
      expect(liar.kind).toBe('aborted');
      expect(liar.message).toContain('rank 1');
    });
  }

  it('names a rank that leaves while others go on', async () => {
    const [stayed] = await runProcesses<{ kind: string; message: string }>(2, module, ['leave', 8]);
    // Either rank may see it first; the other then tells what it was told.
    expect(`${stayed.kind}: ${stayed.message}`).toMatch(
      /^mismatch: .*#2 on world: rank 0 \(this one\) called allReduce.*, rank 1 called close|^aborted: rank 1 .* failed: .*#2 on world: rank 1 \(this one\) called close, rank 0 called allReduce/,
    );
  });

  it('lets no other process write, shrink or keep its memory', async () => {
    const { folder, done } = jobFolder();
    const ranks = startRanks(2, module, ['hold', 1500], { FP8_JOB_FOLDER: folder });
    let text = '';
    const [pid, fd] = await new Promise<string[]>((resolve) => {
      ranks[0].child.stderr?.on('data', (d) => {
        text += d;
        const match = /block (\d+) (\d+)/.exec(text);
        if (match) resolve([match[1], match[2]]);
      });
    });
    const path = `/proc/${pid}/fd/${fd}`;
    const reader = openSync(path, 'r');
    const magic = Buffer.alloc(8);
    readSync(reader, magic, 0, 8, 0);
    expect(magic.toString('latin1')).toBe('\0F8LAN01');
    expect(() => writeSync(reader, magic, 0, 8, 0)).toThrow('EBADF');
    closeSync(reader);
    // Even with the user's own rights, as root here.
    const writer = openSync(path, 'r+');
    expect(() => writeSync(writer, magic, 0, 8, 0)).toThrow('EPERM');
    expect(() => ftruncateSync(writer, 4096)).toThrow('EPERM');
    closeSync(writer);
    const ended = await Promise.all(ranks.map((r) => r.ended));
    done();
    expect(ended.map((e) => e.out.trim())).toEqual(['{"result":2}', '{"result":2}']);
    expect(readdirSync('/dev/shm').filter((f) => f.includes('fp8'))).toEqual([]);
  });
});
