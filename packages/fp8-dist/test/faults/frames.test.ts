// S2, S4: damaged frames to every decoder, and to an engine that serves good peers meanwhile. FAULTS=all: 10^6 for each.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, it } from 'vitest';
import { decodeDescriptor, type Descriptor, encodeDescriptor } from '../../src/engine/descriptor.ts';
import type { Engine } from '../../src/engine/engine.ts';
import { ProtocolError } from '../../src/errors.ts';
import {
  decodeFrame,
  encodeHeader,
  type Header,
  headerBytes,
  maxPayloadBytes,
  sealHeader,
} from '../../src/link/frame.ts';
import { memberFields } from '../../src/rendezvous/member.ts';
import { checkFields, pack, unpack, unpackMessage } from '../../src/rendezvous/messages.ts';
import { memoryTransports } from '../../src/transport/memory.ts';
import { Control } from '../../src/worker/control.ts';
import { Liveness } from '../../src/worker/liveness.ts';
import { generation, post, startEngines, wrongAt } from '../engines.ts';
import { times } from '../jobs.ts';
import { mutate, random } from '../mutate.ts';

const rounds = times(60_000, 1_000_000);
const descriptor: Descriptor = {
  code: 'allReduce',
  dtype: 'e4m3',
  reduce: 'sum',
  mean: true,
  steps: false,
  range: 'fit',
  root: 0,
  count: 99,
  shape: 5,
  scales: new Float32Array([2, 4]),
};
const header: Header = {
  kind: 'announce',
  carrier: 'inline',
  from: 1,
  to: 0,
  generation,
  seq: 1,
  ack: 0,
  group: 0,
  channel: 0,
  opSeq: 1,
  chunk: 0,
  slot: 0,
  payloadBytes: 0,
};

function frame(change: Partial<Header>, payload: Uint8Array): Buffer {
  const b = Buffer.alloc(headerBytes + payload.length);
  b.set(payload, headerBytes);
  encodeHeader(b, { ...header, payloadBytes: payload.length, ...change }, payload);
  return b;
}

/** Runs a decoder on damaged copies: only ProtocolErrors, no time lost, nothing left behind. */
function hammer(seeds: Uint8Array[], decode: (b: Buffer) => void): { refused: number; accepted: number } {
  const next = random(4711);
  let refused = 0;
  let accepted = 0;
  const cpu = process.cpuUsage();
  for (let i = 0; i < rounds; i++) {
    const b = mutate(seeds[i % seeds.length], next);
    try {
      decode(b);
      accepted++;
    } catch (error) {
      if (!(error instanceof ProtocolError))
        throw new Error(`round ${i}: ${(error as Error).stack} on ${b.toString('hex').slice(0, 400)}`);
      refused++;
    }
  }
  // Microseconds of CPU a message, making it included: far below what a flood could use.
  const { user, system } = process.cpuUsage(cpu);
  expect((user + system) / rounds).toBeLessThan(500);
  expect(Object.keys(Object.prototype)).toEqual([]);
  return { refused, accepted };
}

describe('damaged messages', { timeout: times(120_000, 3_600_000) }, () => {
  it('are told from good ones by the frame decoder', () => {
    const good = [
      frame({}, encodeDescriptor(descriptor, Buffer.alloc(50, 3))),
      frame({ kind: 'nack', seq: 0 }, Buffer.alloc(0)),
    ];
    for (const b of good) expect(() => decodeFrame([b])).not.toThrow();
    const { refused } = hammer(good, (b) => {
      decodeFrame([b]);
      if (!good.some((g) => g.equals(b))) throw new Error('a damaged frame passed the checksum');
    });
    expect(refused).toBeGreaterThan(rounds * 0.8);
    // The control: it is the checksum that tells them. With one that fits, another payload passes.
    const other = Buffer.from(good[0]);
    other[other.length - 1] ^= 1;
    expect(() => decodeFrame([other])).toThrow('bad checksum');
    sealHeader(other, other.subarray(headerBytes));
    expect(() => decodeFrame([other])).not.toThrow();
  });

  it('with a right checksum meet checks of every field', () => {
    const good = [
      encodeDescriptor(descriptor, Buffer.alloc(50, 3)),
      encodeDescriptor({ ...descriptor, scales: new Float32Array(0) }, null),
    ];
    const { refused, accepted } = hammer(good, (b) => {
      const { descriptor: d, data } = decodeDescriptor(b);
      if (!(d.count >= 0) || data.length > b.length || d.scales.some((s) => !(s > 0)))
        throw new Error('an impossible announcement');
    });
    expect(refused).toBeGreaterThan(accepted / 10);
  });

  it('are refused by the rendezvous', () => {
    const member = {
      rank: 1,
      pid: 2,
      host: 'h',
      hostname: 'n',
      ipcData: 'ipc:///a',
      ipcControl: null,
      tcpData: null,
      tcpControl: null,
      udp: null,
      arenaFd: 3,
      arenaBytes: 1,
      laneFd: 4,
    };
    hammer([pack(member)], (b) => unpackMessage(b, memberFields));
    expect(unpackMessage(pack(member), memberFields)).toEqual(member);
    expect(() => checkFields({ ...member, extra: 1 }, memberFields)).toThrow('unknown field extra');
    expect(() => unpackMessage(pack({ ...member, rank: 'x' }), memberFields)).toThrow('field rank is no int');
  });

  it('of the control sockets are refused, or are what a member may say', () => {
    const failures: { kind: string; message: string; ranks: readonly number[] }[] = [];
    const engine = {
      rank: 0,
      size: 4,
      active: [],
      failure: null,
      transport: { address: (r: number) => `memory:${r}`, send() {} },
      hasPosted: () => false,
      lost: (rank: number, message: string) => failures.push({ kind: 'lost', message, ranks: [rank] }),
      fail: (kind: string, message: string, ranks: readonly number[]) => failures.push({ kind, message, ranks }),
      tick() {},
    } as unknown as Engine;
    const liveness = new Liveness({
      engine,
      transport: engine.transport,
      control: new Control(),
      deadAfterMs: 1e9,
      pidOf: () => null,
      sleepingIn: () => null,
      hasPosted: () => false,
    });
    liveness.stop();
    const open = liveness as unknown as { stopped: boolean };
    open.stopped = false;
    const good = [
      frame({ kind: 'beat', seq: 0, chunk: 9, slot: 2, ack: 700 }, Buffer.from('12\n5\nbarrier #4 on world')),
      frame({ kind: 'abort', seq: 0 }, Buffer.from('2,3\nrank 2 is gone')),
      frame({ kind: 'bye', seq: 0 }, Buffer.alloc(0)),
    ];
    let taken = 0;
    const { refused } = hammer(good, (b) => {
      // A member gone mad: the checksum fits.
      if (b.length >= headerBytes) sealHeader(b, b.subarray(headerBytes));
      const f = decodeFrame([b]);
      // What the engine checks before: addressed to this rank, from another one.
      if (f.generation !== generation || f.to !== 0 || f.from < 1 || f.from > 3) return;
      if (f.kind !== 'beat' && f.kind !== 'abort' && f.kind !== 'bye') return;
      taken++;
      liveness.receive(f);
      for (let rank = 1; rank < 4; rank++)
        if (liveness.statusOf(rank).length > 9000) throw new Error('a status too long');
    });
    expect(refused).toBeGreaterThan(rounds / 10);
    expect(taken).toBeGreaterThan(rounds / 10);
    expect(failures.length).toBeGreaterThan(0);
    for (const f of failures) {
      expect(f.kind).toBe('aborted');
      expect(f.ranks.every((r) => r >= 0 && r < 4)).toBe(true);
    }
  });

  it('cost at most four times their length in memory, and a MiB', () => {
    setFlagsFromString('--expose-gc');
    const gc = runInNewContext('gc') as () => void;
    const next = random(5);
    const list = (n: number) => Array.from({ length: n }, (_, i) => i % 100);
    const member = { rank: 1, mapped: list(30_000), text: 'x'.repeat(3000) };
    const fields = { rank: 'int', mapped: 'ints', text: 'string' } as const;
    const array = (head: number[], byte: number, n: number) =>
      Buffer.concat([Buffer.from(head), Buffer.alloc(n, byte)]);
    const seeds: [Buffer, (b: Buffer) => unknown][] = [
      [pack(member), (b) => unpackMessage(b, fields)],
      [pack({ ...member, mapped: list(500) }), (b) => unpackMessage(b, fields)],
      // A mebibyte of empty maps, of small numbers, of nothing.
      [array([0xdd, 0, 0x0f, 0xff, 0xfb], 0x80, 0xffffb), (b) => unpackMessage(b, fields)],
      [array([0xdd, 0, 0x0f, 0xff, 0xfb], 0x01, 0xffffb), (b) => unpackMessage(b, fields)],
      [array([0xdc, 0x20, 0], 0x80, 0x2000), (b) => unpackMessage(b, fields)],
      [frame({}, encodeDescriptor({ ...descriptor, scales: new Float32Array(4096).fill(2) }, null)), whole],
      [frame({ kind: 'scatter' }, Buffer.alloc(maxPayloadBytes)), (b) => decodeFrame([b])],
    ];
    function whole(b: Buffer): unknown {
      const f = decodeFrame([b]);
      return decodeDescriptor(f.payload as Uint8Array);
    }
    const used = () => {
      const m = process.memoryUsage();
      return m.heapUsed + m.external;
    };
    let worst = 0;
    for (let i = 0; i < times(300, 5000); i++) {
      const [seed, decode] = seeds[i % seeds.length];
      const b = i < 2 * seeds.length ? Buffer.from(seed) : mutate(seed, next);
      // Resealed, so that the decoders behind the checksum see it too.
      if (i % 2 && b.length >= headerBytes) sealHeader(b, b.subarray(headerBytes));
      if (i % 10 < 2 || b.length > 100_000) gc();
      const before = used();
      let kept: unknown;
      try {
        kept = decode(b);
      } catch (error) {
        expect(error).toBeInstanceOf(ProtocolError);
      }
      const cost = used() - before;
      expect(cost, `round ${i}: ${b.length} bytes`).toBeLessThan(4 * b.length + (1 << 20));
      worst = Math.max(worst, cost - 4 * b.length);
      void kept;
    }
    console.log(`most memory beyond four times the length: ${worst} bytes`);
    // The control: decoding the empty maps without a look before costs far more.
    gc();
    const before = used();
    const maps = unpack(seeds[2][0]) as unknown[];
    expect(maps).toHaveLength(0xffffb);
    expect(used() - before).toBeGreaterThan(4 * seeds[2][0].length + (1 << 20));
  });

  it('cannot be bombs', () => {
    const nested = (byte: number[], depth: number) =>
      Buffer.concat([Buffer.concat(Array.from({ length: depth }, () => Buffer.from(byte))), Buffer.from([0xc0])]);
    const bombs = [
      nested([0xdd, 0xff, 0xff, 0xff, 0xff], 100), // array32 in array32
      nested([0xdc, 0xff, 0xff], 24_000), // chain of array16, 72 kB
      nested([0xdf, 0xff, 0xff, 0xff, 0xff], 100), // map32
      nested([0x91], 100_000), // depth
      Buffer.from([0xc6, 0xff, 0xff, 0xff, 0xff, 0]), // bin32 of 4 GiB
      Buffer.from([0xc9, 0xff, 0xff, 0xff, 0xff, 0x72, 0]), // ext32
      Buffer.from([0xdb, 0xff, 0xff, 0xff, 0xff, 0]), // str32
    ];
    for (const [i, bomb] of bombs.entries()) {
      const before = process.memoryUsage();
      const cpu = process.cpuUsage();
      let what = 'accepted';
      try {
        unpackMessage(bomb, memberFields);
      } catch (error) {
        expect(error, `bomb ${i}`).toBeInstanceOf(ProtocolError);
        what = 'refused';
      }
      expect(what).toBe('refused');
      expect(process.cpuUsage(cpu).user).toBeLessThan(500_000);
      const after = process.memoryUsage();
      expect(after.heapUsed + after.external - before.heapUsed - before.external, `bomb ${i}`).toBeLessThan(64 << 20);
    }
    expect(unpack(pack([1, 'a', null]))).toEqual([1, 'a', null]);
  });

  it('do not disturb good peers, and resealed ones end the job by name or pass as what they are', async () => {
    const next = random(99);
    let wrong = 0;
    let named = 0;
    let sent = 0;
    for (let round = 0; round < times(40, 2500); round++) {
      const { engines, done, failures, stop } = startEngines(memoryTransports(2));
      const datas = engines.map((engine, rank) => {
        for (let i = 0; i < 240; i++) {
          const to = { from: 1 - rank, to: rank, seq: 1 };
          const kind = (['announce', 'scatter', 'result', 'ack'] as const)[i % 4];
          const payload =
            kind === 'announce' ? encodeDescriptor(descriptor, null) : Buffer.alloc(kind === 'ack' ? 4 : 1000);
          const good = frame({ ...to, kind }, payload);
          const bad = mutate(good, next);
          if (bad.equals(good)) continue;
          // Half of them with a checksum that fits: a member gone mad, not a bad cable.
          sent++;
          if (i % 8 >= 4 && bad.length >= headerBytes && round % 2) sealHeader(bad, bad.subarray(headerBytes));
          engine.message([bad], -1);
        }
        return post(engine, 1, 500, { timeoutMs: 5000 });
      });
      for (let turn = 0; turn < 2000 && engines.some((e, r) => !e.failure && !done[r].size); turn++) {
        for (const e of engines) e.tick();
        await new Promise((r) => setImmediate(r));
      }
      stop();
      datas.forEach((data, rank) => {
        if (done[rank].size && wrongAt(data, 1) >= 0) wrong++;
        if (failures[rank]) {
          named++;
          expect(failures[rank].message).toMatch(/rank [01]/);
        }
      });
      if (round % 2 === 0) expect(failures).toEqual([null, null]);
    }
    console.log(`${sent} damaged frames to engines at work: ${named} ended by name, 0 wrong sums`);
    expect(wrong).toBe(0);
    expect(named).toBeGreaterThan(0);
  });
});
