// Two engines of one thread over real TCP sockets, with proxies in between that can be cut: for tests of the wire.
import { connect as connectTcp, createServer, type Server, type Socket } from 'node:net';
import * as zmq from 'zeromq';
import type { CurveKeys } from '../src/rendezvous/security.ts';
import { bindInbox, zeromqTransport } from '../src/transport/zeromq.ts';
import { startEngines } from './engines.ts';

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
  const transports = [0, 1].map((rank) =>
    zeromqTransport({ zmq, rank, size: 2, inboxes: [inboxes[rank]], endpoints, addresses: endpoints, keys }),
  );
  const { stop, ...running } = startEngines(transports);
  return {
    ...running,
    inboxes,
    proxies,
    async close() {
      stop();
      await Promise.all(transports.map((t) => t.close()));
      for (const p of proxies) p.close();
    },
  };
}
