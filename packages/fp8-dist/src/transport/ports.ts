// Ranks as threads of one process, joined by message ports: the same interface as ZeroMQ, for tests. Messages are copied, so
// that nothing is shared by accident.
import type { MessagePort } from 'node:worker_threads';
import type { Transport } from './transport.ts';

/** @param ports one to each other rank; null at this rank's place */
export function portsTransport(rank: number, ports: readonly (MessagePort | null)[]): Transport {
  const transport: Transport = {
    rank,
    size: ports.length,
    bytes: { sent: 0, received: 0 },
    start() {
      ports.forEach((port, from) => {
        port?.on('message', (parts: Uint8Array[]) => {
          for (const p of parts) transport.bytes.received += p.length;
          transport.onMessage(parts, from);
        });
      });
    },
    onMessage: () => {},
    onLost: () => {},
    address: (r) => `thread ${r}`,
    send(to, parts) {
      const copies = parts.map((p) => Uint8Array.from(p));
      for (const c of copies) transport.bytes.sent += c.length;
      ports[to]?.postMessage(
        copies,
        copies.map((c) => c.buffer),
      );
    },
    async close() {
      for (const port of ports) port?.close();
    },
  };
  return transport;
}
