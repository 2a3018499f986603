// Two engines of one thread over real TCP sockets, with proxies in between that can be cut: for tests of the wire.
import { connect as connectTcp, createServer, type Server, type Socket } from 'node:net';
import * as zmq from 'zeromq';
import { Engine } from '../src/engine/engine.ts';
import type { OpRequest } from '../src/engine/request.ts';
import type { DistError } from '../src/errors.ts';
import { SlotPool } from '../src/link/slots.ts';
import { plainMath } from '../src/math/plain.ts';
import type { CurveKeys } from '../src/rendezvous/security.ts';
import { bindInbox, zeromqTransport } from '../src/transport/zeromq.ts';

/** A TCP proxy that can cut all connections, or let nothing through while keeping them open. */
export async function proxyTo(
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
export async function pairOverTcp(keys: CurveKeys | null = null) {
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
    inboxes,
    proxies,
    failures,
    done,
    async close() {
      clearInterval(timer);
      await Promise.all(transports.map((t) => t.close()));
      for (const p of proxies) p.close();
    },
  };
}

/** Posts an all-reduce whose sum is `1 + 2 * (id + i % 17)`. */
export function post(engine: Engine, id: number, n: number, timeoutMs = 60_000): Float32Array {
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

/** Index of the first wrong element of what `post` returned, once done; -1 if all are right. */
export const wrongAt = (data: Float32Array, id: number): number =>
  data.findIndex((v, i) => v !== 1 + 2 * (id + (i % 17)));
