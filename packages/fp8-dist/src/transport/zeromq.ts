// Ranks over ZeroMQ. Each rank binds inboxes (PULL) and connects one PUSH to every peer: over IPC to ranks on the same host,
// over TCP to others. PUSH and PULL drop nobody and need no identities; who sent a frame is in its header, and what a cut
// connection loses is repeated by the link. No ZMTP heartbeats (with back-pressure they abort the process or drop healthy
// peers), no high-water marks (the link bounds what is in flight), a bound on every message and handshake.
import type { Push, Pull } from 'zeromq';
import { headerBytes, maxPayloadBytes } from '../link/frame.ts';
import type { CurveKeys } from '../rendezvous/security.ts';
import type { Transport } from './transport.ts';

type ZeroMQ = typeof import('zeromq');

const common = { linger: 0, maxMessageSize: headerBytes + maxPayloadBytes, handshakeInterval: 3000, backlog: 512 };

/**
 * TCP repeats unacknowledged bytes ever more slowly, for minutes; a new connection starts at once, and the link repeats what the
 * old one lost.
 */
const impatience = { tcpMaxRetransmitTimeout: 10_000, connectTimeout: 1000 };

/** One inbox: where it listens, and whether peers must prove membership. */
export interface Inbox {
  socket: Pull;
  endpoint: string;
}

/**
 * Binds an inbox. TCP endpoints may end in `:*` for any free port.
 * @param keys CURVE keys of the job; null only on loopback and IPC
 */
export async function bindInbox(zmq: ZeroMQ, address: string, keys: CurveKeys | null): Promise<Inbox> {
  const socket = new zmq.Pull({
    ...common,
    receiveHighWaterMark: 0,
    ...(keys ? { curveServer: true, curveSecretKey: keys.secretKey, zapDomain: 'fp8lm' } : {}),
  });
  await socket.bind(address);
  return { socket, endpoint: socket.lastEndpoint ?? address };
}

interface Lane {
  socket: Push;
  queue: (readonly Uint8Array[])[];
  busy: boolean;
  connected: boolean;
}

export interface ZeroMQOptions {
  zmq: ZeroMQ;
  rank: number;
  size: number;
  inboxes: readonly Inbox[];
  /** Where to reach each rank; own entry unused. */
  endpoints: readonly string[];
  /** How people know a rank: host and port, or pid. */
  addresses: readonly string[];
  keys: CurveKeys | null;
  /** A connection that was up went down; it may come back. */
  onDown?: (rank: number) => void;
  onUp?: (rank: number) => void;
}

export function zeromqTransport(options: ZeroMQOptions): Transport {
  const { zmq, rank, size, endpoints, addresses, keys } = options;
  let closed = false;
  const bytes = { sent: 0, received: 0 };
  const lanes: (Lane | null)[] = [];
  const pending: Promise<unknown>[] = [];

  const transport: Transport = {
    rank,
    size,
    bytes,
    start() {
      for (const { socket } of options.inboxes) pending.push(receive(socket));
    },
    onMessage: () => {},
    onLost: () => {},
    address: (r) => addresses[r] ?? '?',
    send(to, parts) {
      const lane = lanes[to];
      if (!lane || closed) return;
      for (const part of parts) bytes.sent += part.length;
      lane.queue.push(parts);
      if (!lane.busy) void drain(lane);
    },
    async close() {
      closed = true;
      for (const lane of lanes) lane?.socket.close();
      for (const { socket } of options.inboxes) socket.close();
      // A thread that ends while a call of the binding is pending aborts the process.
      await Promise.allSettled(pending);
    },
  };

  /** A socket takes one send at a time. */
  async function drain(lane: Lane): Promise<void> {
    lane.busy = true;
    try {
      for (let parts = lane.queue.shift(); parts && !closed; parts = lane.queue.shift()) {
        await sendWhole(lane.socket, parts as Buffer[]);
      }
    } catch (error) {
      if (!closed) throw error;
    }
    lane.busy = false;
  }

  /** A connection that goes down between two parts takes the first one back, and says EAGAIN. */
  async function sendWhole(socket: Push, parts: Buffer[]): Promise<void> {
    for (;;) {
      try {
        return await socket.send(parts);
      } catch (error) {
        if (closed || (error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
    }
  }

  /** The same at the other end: a message that was cut off is no message. */
  async function receiveWhole(socket: Pull): Promise<Buffer[]> {
    for (;;) {
      try {
        return await socket.receive();
      } catch (error) {
        if (closed || (error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
    }
  }

  async function receive(socket: Pull): Promise<void> {
    try {
      for (;;) {
        const parts = await receiveWhole(socket);
        for (const part of parts) bytes.received += part.length;
        transport.onMessage(parts, -1);
      }
    } catch (error) {
      if (!closed) throw error;
    }
  }

  for (let peer = 0; peer < size; peer++) {
    if (peer === rank) {
      lanes.push(null);
      continue;
    }
    const curve =
      keys && endpoints[peer].startsWith('tcp:')
        ? { curveServerKey: keys.publicKey, curvePublicKey: keys.publicKey, curveSecretKey: keys.secretKey }
        : {};
    const socket = new zmq.Push({
      ...common,
      sendHighWaterMark: 0,
      reconnectInterval: 20,
      reconnectMaxInterval: 200,
      ...(endpoints[peer].startsWith('tcp:') ? impatience : {}),
      ...curve,
    });
    const lane: Lane = { socket, queue: [], busy: false, connected: false };
    if (options.onDown || options.onUp) {
      socket.events.on('handshake', () => {
        lane.connected = true;
        options.onUp?.(peer);
      });
      pending.push(new Promise((resolve) => socket.events.on('end', resolve)));
      socket.events.on('disconnect', () => {
        if (!closed && lane.connected) options.onDown?.(peer);
        lane.connected = false;
      });
    }
    socket.connect(endpoints[peer]);
    lanes.push(lane);
  }
  return transport;
}
