import { describe, expect, it, vi } from 'vitest';
import { DistError } from '../errors.ts';
import { SlotPool, slotBytes } from '../link/slots.ts';
import { plainMath } from '../math/plain.ts';
import { memoryTransports, type Mischief } from '../transport/memory.ts';
import { Engine } from './engine.ts';
import type { OpRequest } from './request.ts';

/** Small slots, so that little data makes many chunks; before anything reads the size. */
vi.hoisted(() => {
  process.env.FP8_SLOT_BYTES = '16384';
});

interface Job {
  engines: Engine[];
  done: number[][];
  failures: (DistError | null)[];
  /** Runs until every rank has `count` operations done, or all have failed. */
  until(count: number): Promise<void>;
  stop(): void;
}

function job(size: number, mischief?: Mischief, poolSize = 8): Job {
  const done: number[][] = Array.from({ length: size }, () => []);
  const failures: (DistError | null)[] = Array(size).fill(null);
  const engines = memoryTransports(size, mischief).map(
    (transport, rank) =>
      new Engine({
        transport,
        generation: 7,
        math: plainMath,
        pool: new SlotPool(poolSize),
        onDone: (r) => done[rank].push(r.id),
        onFailed: (error) => {
          failures[rank] = error;
        },
      }),
  );
  const timer = setInterval(() => {
    for (const e of engines) e.tick();
  }, 10);
  return {
    engines,
    done,
    failures,
    async until(count) {
      const limit = performance.now() + 60_000;
      while (performance.now() < limit) {
        if (engines.every((e, r) => e.failure || done[r].length >= count)) return;
        await new Promise((r) => setImmediate(r));
      }
      throw new Error(`stuck: ${done.map((d) => d.length)} done, ${engines.map((e) => e.doing())}`);
    },
    stop: () => clearInterval(timer),
  };
}

function allReduce(
  rank: number,
  size: number,
  id: number,
  n: number,
  change: Partial<OpRequest> = {},
): { request: OpRequest; data: Float32Array } {
  const data = Float32Array.from({ length: n }, (_, i) => rank + id + (i % 13));
  const bounds = Array.from({ length: size + 1 }, (_, i) => Math.floor((n * i) / size));
  const request: OpRequest = {
    id,
    group: 0,
    groupName: 'world',
    channel: 0,
    opSeq: id,
    members: Array.from({ length: size }, (_, i) => i),
    code: 'allReduce',
    dtype: 'f32',
    reduce: 'sum',
    mean: false,
    steps: false,
    range: 'fit',
    root: 0,
    segments: [new Uint8Array(data.buffer)],
    out: null,
    bounds,
    outBounds: null,
    shape: n,
    scales: new Float32Array(0),
    timeoutMs: 60_000,
    ...change,
  };
  return { request, data };
}

const expected = (size: number, id: number, i: number) => (size * (size - 1)) / 2 + size * (id + (i % 13));
/** Several chunks for each of three ranks. */
const large = Math.floor((slotBytes / 4) * 7.3);

function xorshift(seed: number): () => number {
  let x = seed;
  return () => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (x >>> 0) / 2 ** 32;
  };
}

describe('engine', () => {
  it('does not lock up when chunks outnumber the slots', async () => {
    const j = job(3, undefined, 4);
    const sent = j.engines.map((e, rank) =>
      [1, 2].map((id) => {
        const op = allReduce(rank, 3, id, large);
        e.post(op.request);
        return op.data;
      }),
    );
    await j.until(2);
    j.stop();
    for (const [a, b] of sent) {
      expect(a[large - 1]).toBe(expected(3, 1, large - 1));
      expect(b[0]).toBe(expected(3, 2, 0));
    }
  });

  it('repairs lost, doubled and damaged messages to the bit', async () => {
    const random = xorshift(20231);
    const counts = { lost: 0, doubled: 0, damaged: 0 };
    const mischief: Mischief = (parts) => {
      const r = random();
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
        const part = parts[Math.floor(random() * parts.length)];
        part[Math.floor(random() * part.length)] ^= 1 << Math.floor(random() * 8);
      }
      return [parts];
    };
    const j = job(3, mischief);
    const datas: Float32Array[][] = [[], [], []];
    for (let id = 1; id <= 20; id++) {
      const n = id % 3 === 0 ? large : 1000 + id;
      j.engines.forEach((e, rank) => {
        const op = allReduce(rank, 3, id, n);
        datas[rank].push(op.data);
        e.post(op.request);
      });
      await j.until(id);
    }
    j.stop();
    expect(j.failures).toEqual([null, null, null]);
    for (const own of datas) {
      own.forEach((data, k) => {
        const bad = data.findIndex((v, i) => v !== expected(3, k + 1, i));
        expect(bad, `operation ${k + 1}`).toBe(-1);
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
      j.engines[0].post(allReduce(0, 2, 1, 100).request);
      j.engines[1].post(allReduce(1, 2, 1, 100, change).request);
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
    for (const rank of [0, 2]) j.engines[rank].post(allReduce(rank, 3, 1, 10, { timeoutMs: 50 }).request);
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
    other.engines[0].post(allReduce(0, 2, 1, 10).request);
    j.engines[1].message([Buffer.alloc(10)], -1);
    j.engines[1].message([], -1);
    expect(j.engines[1].dropped).toEqual({ malformed: 2, foreign: 1 });
    const ops = j.engines.map((e, rank) => {
      const op = allReduce(rank, 2, 1, 10);
      e.post(op.request);
      return op.data;
    });
    await j.until(1);
    j.stop();
    other.stop();
    expect(ops[0][3]).toBe(expected(2, 1, 3));
  });
});
