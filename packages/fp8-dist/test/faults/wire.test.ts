// F4, F5, S1, S5 on real sockets: connections cut through a proxy, silence on the wire, impostors, floods.
import { connect as connectTcp, createServer, type Server, type Socket } from 'node:net';
import * as zmq from 'zeromq';
import { describe, expect, it } from 'vitest';
import { Engine } from '../../src/engine/engine.ts';
import type { OpRequest } from '../../src/engine/request.ts';
import type { DistError } from '../../src/errors.ts';
import { headerBytes } from '../../src/link/frame.ts';
import { SlotPool } from '../../src/link/slots.ts';
import { plainMath } from '../../src/math/plain.ts';
import { type CurveKeys, curveKeys, newJobKey } from '../../src/rendezvous/security.ts';
import { serveZap } from '../../src/rendezvous/zap.ts';
import { bindInbox, zeromqTransport } from '../../src/transport/zeromq.ts';
import { times } from '../jobs.ts';

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** A TCP proxy that can cut all connections, or let nothing through while keeping them open. */
async function proxyTo(
  port: number,
): Promise<{ port: number; cut(): number; hold(yes: boolean): void; close(): void }> {
  const pairs = new Set<[Socket, Socket]>();
  let held = false;
  const server: Server = createServer((a) => {
    const b = connectTcp(port, '127.0.0.1');
    const pair: [Socket, Socket] = [a, b];
    pairs.add(pair);
    for (const [from, to] of [
      [a, b],
      [b, a],
    ]) {
      from.on('data', (d) => to.write(d));
      from.on('error', () => {});
      from.on('close', () => {
        to.destroy();
        pairs.delete(pair);
      });
      if (held) from.pause();
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    port: (server.address() as { port: number }).port,
    cut() {
      const n = pairs.size;
      for (const [a, b] of pairs) {
        a.resetAndDestroy();
        b.resetAndDestroy();
      }
      return n;
    },
    hold(yes) {
      held = yes;
      for (const s of [...pairs].flat()) s[yes ? 'pause' : 'resume']();
    },
    close() {
      server.close();
      for (const [a, b] of pairs) {
        a.destroy();
        b.destroy();
      }
    },
  };
}

/** Two engines of this thread over TCP, each reaching the other through a proxy. */
async function pairOverTcp(keys: CurveKeys | null = null) {
  const inboxes = await Promise.all([0, 1].map(() => bindInbox(zmq, 'tcp://127.0.0.1:*', keys)));
  const proxies = await Promise.all(inboxes.map((i) => proxyTo(Number(i.endpoint.split(':').pop()))));
  const endpoints = proxies.map((p) => `tcp://127.0.0.1:${p.port}`);
  const failures: (DistError | null)[] = [null, null];
  const done = [new Set<number>(), new Set<number>()];
  const transports = [0, 1].map((rank) =>
    zeromqTransport({ zmq, rank, size: 2, inboxes: [inboxes[rank]], endpoints, addresses: endpoints, keys }),
  );
  const engines = transports.map(
    (transport, rank) =>
      new Engine({
        transport,
        generation: 3,
        math: plainMath,
        pool: new SlotPool(16),
        onDone: (r) => done[rank].add(r.id),
        onFailed: (e) => {
          failures[rank] = e;
        },
      }),
  );
  const timer = setInterval(() => {
    for (const e of engines) e.tick();
  }, 20);
  return {
    engines,
    proxies,
    failures,
    done,
    close() {
      clearInterval(timer);
      for (const t of transports) t.close();
      for (const p of proxies) p.close();
    },
  };
}

function post(engine: Engine, id: number, n: number, timeoutMs = 60_000): Float32Array {
  const data = Float32Array.from({ length: n }, (_, i) => engine.rank + id + (i % 17));
  const half = Math.floor(n / 2);
  const request: OpRequest = {
    id,
    group: 0,
    groupName: 'world',
    channel: 0,
    opSeq: id,
    members: [0, 1],
    code: 'allReduce',
    dtype: 'f32',
    reduce: 'sum',
    mean: false,
    steps: false,
    range: 'fit',
    root: 0,
    segments: [new Uint8Array(data.buffer)],
    out: null,
    bounds: [0, half, n],
    outBounds: null,
    shape: n,
    scales: new Float32Array(0),
    timeoutMs,
  };
  engine.post(request);
  return data;
}

describe('on the wire', () => {
  it('connections cut under load lose, double and shift nothing', async () => {
    const pair = await pairOverTcp();
    let cuts = 0;
    let id = 0;
    const wanted = times(40, 300);
    const deadline = performance.now() + times(60_000, 600_000);
    while (cuts < wanted && performance.now() < deadline) {
      id++;
      const n = id % 4 === 0 ? 400_000 : 3000 + id;
      const datas = pair.engines.map((e) => post(e, id, n));
      const mine = id;
      for (
        let k = 0;
        !pair.done.every((d) => d.has(mine)) && !pair.failures.some(Boolean) && performance.now() < deadline;
        k++
      ) {
        if (k % 3 === 0) cuts += pair.proxies[k % 2].cut();
        await pause(n > 10_000 ? 40 : 5);
      }
      for (const data of datas) {
        const bad = data.findIndex((v, i) => v !== 1 + 2 * (mine + (i % 17)));
        expect(bad, `operation ${mine}`).toBe(-1);
      }
    }
    const repeated = pair.engines.map((e) => e.links[1 - e.rank]?.counters.repeated ?? 0);
    pair.close();
    expect(pair.failures).toEqual([null, null]);
    expect(cuts).toBeGreaterThanOrEqual(wanted);
    // The control: without repeats these cuts would have lost frames.
    expect(repeated[0] + repeated[1]).toBeGreaterThan(0);
    console.log(`${cuts} cuts in ${id} all-reduces, ${repeated[0] + repeated[1]} frames sent again`);
  });

  it('a second of silence changes nothing; silence beyond the deadline is named', async () => {
    const pair = await pairOverTcp();
    let datas = pair.engines.map((e) => post(e, 1, 1000));
    while (!pair.done.every((d) => d.has(1))) await pause(5);
    for (const p of pair.proxies) p.hold(true);
    datas = pair.engines.map((e) => post(e, 2, 300_000));
    await pause(1000);
    for (const p of pair.proxies) p.hold(false);
    while (!pair.done.every((d) => d.has(2)) && !pair.failures.some(Boolean)) await pause(5);
    expect(pair.failures).toEqual([null, null]);
    for (const data of datas) expect(data.findIndex((v, i) => v !== 1 + 2 * (2 + (i % 17)))).toBe(-1);

    for (const p of pair.proxies) p.hold(true);
    const start = performance.now();
    for (const e of pair.engines) post(e, 3, 1000, 1000);
    while (!pair.failures.every(Boolean)) await pause(5);
    pair.close();
    expect(performance.now() - start).toBeLessThan(4000);
    expect(pair.failures[0]?.message).toMatch(
      /allReduce\(sum, f32, 1000 elements\) #3 on world \(rank 0 of 2\): not done after 1\.\d s .* waiting for rank 1 at tcp:/,
    );
  });

  it('impostors get nothing through, and members do', async () => {
    const keys = curveKeys(newJobKey());
    const stranger = zmq.curveKeyPair();
    const wrongServer = curveKeys(newJobKey());
    const zap = await serveZap(zmq, keys.publicKey);
    const inbox = await bindInbox(zmq, 'tcp://127.0.0.1:*', keys);
    const heard: string[] = [];
    const listen = (async () => {
      for (;;) heard.push((await inbox.socket.receive())[0].toString());
    })().catch(() => {});
    const own = { curveServerKey: keys.publicKey, curvePublicKey: keys.publicKey, curveSecretKey: keys.secretKey };
    const impostors: [string, ConstructorParameters<typeof zmq.Push>[0]][] = [
      ['no mechanism', {}],
      ['PLAIN', { plainUsername: 'root', plainPassword: 'root' }],
      ['unknown key', { ...own, curvePublicKey: stranger.publicKey, curveSecretKey: stranger.secretKey }],
      ['wrong server key', { ...own, curveServerKey: wrongServer.publicKey }],
      ['public key without its secret', { ...own, curveSecretKey: stranger.secretKey }],
    ];
    const tries = times(20, 1000);
    for (let i = 0; i < tries; i++) {
      const sockets = impostors.map(([name, options]) => {
        const s = new zmq.Push({ linger: 0, sendTimeout: 0, reconnectInterval: 1000, ...options });
        s.connect(inbox.endpoint);
        s.send(name).catch(() => {});
        return s;
      });
      await pause(i % 10 === 9 ? 60 : 10);
      for (const s of sockets) s.close();
    }
    const member = new zmq.Push({ linger: 0, ...own });
    member.connect(inbox.endpoint);
    await member.send('member');
    while (!heard.length) await pause(5);
    member.close();
    inbox.socket.close();
    await listen;
    zap.close();
    expect(heard).toEqual(['member']);
    expect(zap.refused).toBeGreaterThan(0);
  });

  it('bounds what a stranger can make a rank hold, and serves members meanwhile', async () => {
    const inbox = await bindInbox(zmq, 'tcp://127.0.0.1:*', null);
    const port = Number(inbox.endpoint.split(':').pop());
    let heard = 0;
    const listen = (async () => {
      for (;;) {
        await inbox.socket.receive();
        heard++;
      }
    })().catch(() => {});
    const before = process.memoryUsage().rss;
    // The greeting and a NULL handshake by hand, then a frame that announces 8 GiB.
    const greeting = Buffer.concat([
      Buffer.from('ff00000000000000017f0300', 'hex'),
      Buffer.from('NULL'),
      Buffer.alloc(16 + 1 + 31),
    ]);
    const ready = Buffer.from('0419055245414459' + '0b536f636b65742d547970650000000450555348', 'hex');
    ready[1] = ready.length - 2;
    const bomb = Buffer.concat([Buffer.from('02', 'hex'), Buffer.from('0000000200000000', 'hex')]);
    const closed = await new Promise<boolean>((resolve) => {
      const s = connectTcp(port, '127.0.0.1', () => s.write(Buffer.concat([greeting, ready, bomb])));
      const junk = Buffer.alloc(1 << 20);
      const flood = setInterval(() => s.write(junk), 2);
      const limit = setTimeout(() => resolve(false), 8000);
      s.on('error', () => {});
      s.on('close', () => {
        clearInterval(flood);
        clearTimeout(limit);
        resolve(true);
      });
      s.resume();
    });
    // Idle connections that never say a word are closed after the handshake's limit.
    const idle = Array.from({ length: 50 }, () => connectTcp(port, '127.0.0.1'));
    let dropped = 0;
    for (const s of idle) {
      s.resume();
      s.on('error', () => {});
      s.on('close', () => dropped++);
    }
    const good = new zmq.Push({ linger: 0 });
    good.connect(inbox.endpoint);
    await good.send(Buffer.alloc(headerBytes));
    while (!heard) await pause(5);
    for (let i = 0; i < 100 && dropped < 50; i++) await pause(100);
    good.close();
    inbox.socket.close();
    await listen;
    expect(closed).toBe(true);
    expect(dropped).toBe(50);
    expect(process.memoryUsage().rss - before).toBeLessThan(96 << 20);
  });
});
