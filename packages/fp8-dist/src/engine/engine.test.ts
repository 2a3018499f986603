import { describe, expect, it, vi } from 'vitest';
import { DistError } from '../errors.ts';
import { type Engines, post, startEngines, wrongAt } from '../../test/engines.ts';
import { random } from '../../test/mutate.ts';
import { slotBytes } from '../link/slots.ts';
import { memoryTransports, type Mischief } from '../transport/memory.ts';
import type { OpRequest } from './request.ts';

/** Small slots, so that little data makes many chunks; before anything reads the size. */
vi.hoisted(() => {
  process.env.FP8_SLOT_BYTES = '16384';
});

interface Job extends Engines {
  /** Runs until every rank has `count` operations done, or all have failed. */
  until(count: number): Promise<void>;
}

function job(size: number, mischief?: Mischief, slots = 8): Job {
  const running = startEngines(memoryTransports(size, mischief), slots);
  const { engines, done } = running;
  return {
    ...running,
    async until(count) {
      const limit = performance.now() + 60_000;
      while (performance.now() < limit) {
        if (engines.every((e, r) => e.failure || done[r].size >= count)) return;
        await new Promise((r) => setImmediate(r));
      }
      throw new Error(`stuck: ${done.map((d) => d.size)} done, ${engines.map((e) => e.doing())}`);
    },
  };
}

/** Several chunks for each of three ranks. */
const large = Math.floor((slotBytes / 4) * 7.3);

describe('engine', () => {
  it('does not lock up when chunks outnumber the slots', async () => {
    const j = job(3, undefined, 4);
    const sent = j.engines.map((e) => [1, 2].map((id) => post(e, id, large)));
    await j.until(2);
    j.stop();
    for (const datas of sent) expect(datas.map((data, k) => wrongAt(data, k + 1, 3))).toEqual([-1, -1]);
  });

  it('repairs lost, doubled and damaged messages to the bit', async () => {
    const next = random(20231);
    const counts = { lost: 0, doubled: 0, damaged: 0 };
    const mischief: Mischief = (parts) => {
      const r = next();
      if (r < 0.08) {
        counts.lost++;
        return [];
      }
      if (r < 0.15) {
        counts.doubled++;
        return [parts, parts];
      }
      if (r < 0.22) {
        counts.damaged++;
        const part = parts[Math.floor(next() * parts.length)];
        part[Math.floor(next() * part.length)] ^= 1 << Math.floor(next() * 8);
      }
      return [parts];
    };
    const j = job(3, mischief);
    const datas: Float32Array[][] = [[], [], []];
    for (let id = 1; id <= 20; id++) {
      const n = id % 3 === 0 ? large : 1000 + id;
      j.engines.forEach((e, rank) => {
        datas[rank].push(post(e, id, n));
      });
      await j.until(id);
    }
    j.stop();
    expect(j.failures).toEqual([null, null, null]);
    for (const own of datas) {
      own.forEach((data, k) => {
        expect(wrongAt(data, k + 1, 3), `operation ${k + 1}`).toBe(-1);
      });
    }
    expect(Math.min(counts.lost, counts.doubled, counts.damaged)).toBeGreaterThan(5);
  });

  const disagreements: [string, Partial<OpRequest>][] = [
    ['another operation', { code: 'barrier', dtype: 'u8', segments: [], bounds: [0, 0, 0], shape: 0 }],
    ['another dtype', { dtype: 'i32' }],
    ['another size', { segments: [new Uint8Array(40)], bounds: [0, 5, 10] }],
    ['another reduction', { reduce: 'max' }],
    ['a mean instead of a sum', { mean: true }],
    ['other shapes of the same size', { shape: 999 }],
  ];
  for (const [what, change] of disagreements) {
    it(`names both sides when one rank calls ${what}`, async () => {
      const j = job(2);
      post(j.engines[0], 1, 100);
      post(j.engines[1], 1, 100, change);
      await j.until(1);
      j.stop();
      for (const f of j.failures) {
        expect(f).toBeInstanceOf(DistError);
        expect(f?.kind).toBe('mismatch');
        expect(f?.ranks).toHaveLength(2);
        expect(f?.message).toMatch(/rank [01] \(this one\) called .*, rank [01] called /);
      }
    });
  }

  it('says at the deadline which rank has not come', async () => {
    const j = job(3);
    for (const rank of [0, 2]) post(j.engines[rank], 1, 10, { timeoutMs: 50 });
    while (!j.engines[0].failure || !j.engines[2].failure) await new Promise((r) => setImmediate(r));
    j.stop();
    expect(j.failures[0]?.kind).toBe('timeout');
    expect(j.failures[0]?.message).toContain('allReduce(sum, f32, 10 elements) #1 on world (rank 0 of 3)');
    expect(j.failures[0]?.message).toContain('rank 1 at memory:1 (has not entered');
    expect(j.failures[2]?.ranks).toEqual([1]);
  });

  it('drops messages of another job and what is no message at all', async () => {
    const j = job(2);
    const other = job(2);
    other.engines[0].transport.send = (_to, parts) => j.engines[1].message([...parts], -1);
    Object.assign(other.engines[0], { generation: 8 });
    post(other.engines[0], 1, 10);
    j.engines[1].message([Buffer.alloc(10)], -1);
    j.engines[1].message([], -1);
    expect(j.engines[1].dropped).toEqual({ malformed: 2, foreign: 1 });
    const datas = j.engines.map((e) => post(e, 1, 10));
    await j.until(1);
    j.stop();
    other.stop();
    for (const data of datas) expect(wrongAt(data, 1)).toBe(-1);
  });
});
