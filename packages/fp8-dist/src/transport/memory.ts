import type { Transport } from './transport.ts';

/** What a test does to a message on its way: deliver it, lose it, deliver it twice, or damage it. */
export type Mischief = (parts: Buffer[], from: number, to: number) => Buffer[][];

/**
 * Ranks of one thread, for tests of what lies above: messages are copied and handed over in a later turn, in order.
 * @param mischief what happens to each message; default: it arrives
 */
export function memoryTransports(size: number, mischief: Mischief = (parts) => [parts]): Transport[] {
  const transports: Transport[] = [];
  const inboxes: { parts: Buffer[]; from: number }[][] = Array.from({ length: size }, () => []);
  const open = Array(size).fill(true);
  const drain = (rank: number): void => {
    while (open[rank] && inboxes[rank].length) {
      const { parts, from } = inboxes[rank].shift() as { parts: Buffer[]; from: number };
      transports[rank].bytes.received += parts.reduce((n, p) => n + p.length, 0);
      transports[rank].onMessage(parts, from);
    }
  };
  for (let rank = 0; rank < size; rank++) {
    transports.push({
      rank,
      size,
      bytes: { sent: 0, received: 0 },
      start() {},
      onMessage: () => {},
      onLost: () => {},
      address: (r) => `memory:${r}`,
      send(to, parts) {
        const copies = parts.map((p) => Buffer.from(p));
        this.bytes.sent += copies.reduce((n, p) => n + p.length, 0);
        for (const arrived of mischief(copies, rank, to)) inboxes[to].push({ parts: arrived, from: rank });
        setImmediate(drain, to);
      },
      async close() {
        open[rank] = false;
      },
    });
  }
  return transports;
}
