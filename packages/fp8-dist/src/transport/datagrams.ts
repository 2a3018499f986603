// Heartbeats to other machines as UDP datagrams. On a lossy network TCP's repeats back off (with 30 % of the packets lost both
// ways a connection was measured silent for 52 s), while a beat that is late is worth nothing: the next one is on its way. Beats
// go over TCP as well, so a network that blocks UDP costs reaction to losses, and nothing else.
//
// Each datagram is AES-256-GCM under a key of job, incarnation and sender: rank (2 bytes), nonce (12: start, counter), text, tag
// (16). Counters only grow, so a recorded datagram is dropped.
import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto';
import { createSocket, type Socket } from 'node:dgram';
import { isIPv6 } from 'node:net';

const headBytes = 14;
const tagBytes = 16;
const maxBytes = 8192;

export interface Datagrams {
  /** host:port where this rank listens. */
  readonly endpoint: string;
  /** Datagrams that were dropped: not of this job, damaged, repeated. */
  refused: number;
  /** To be called once the members are known, before anything is sent. @param endpoints host:port a rank; null: none */
  join(job: { key: string; generation: number; rank: number; endpoints: readonly (string | null)[] }): void;
  /** Sends a message to a rank, or loses it. */
  send(to: number, message: Uint8Array): void;
  onMessage: (message: Buffer, from: number) => void;
  close(): void;
}

const keyOf = (jobKey: string, generation: number, rank: number): Buffer =>
  Buffer.from(hkdfSync('sha256', Buffer.from(jobKey, 'base64url'), 'fp8lm', `datagrams ${generation} ${rank}`, 32));

function split(endpoint: string): { host: string; port: number } {
  const at = endpoint.lastIndexOf(':');
  return { host: endpoint.slice(0, at), port: Number(endpoint.slice(at + 1)) };
}

/** Listens on any free port of an address of this machine. */
export async function bindDatagrams(address: string): Promise<Datagrams> {
  const socket: Socket = createSocket(isIPv6(address) ? 'udp6' : 'udp4');
  await new Promise<void>((resolve, reject) => {
    socket.once('error', reject);
    socket.bind({ address, port: 0, exclusive: true }, resolve);
  });
  socket.removeAllListeners('error');
  // An unreachable peer is a lost datagram; liveness notices by itself.
  socket.on('error', () => {});
  let own: { rank: number; key: Buffer } | null = null;
  let peers: ({ host: string; port: number; key: Buffer; last: bigint; start: number } | null)[] = [];
  let counter = 0n;
  const start = randomBytes(4);
  let closed = false;

  const datagrams: Datagrams = {
    endpoint: `${address}:${socket.address().port}`,
    refused: 0,
    join({ key, generation, rank, endpoints }) {
      own = { rank, key: keyOf(key, generation, rank) };
      peers = endpoints.map((e, r) =>
        e === null || r === rank ? null : { ...split(e), key: keyOf(key, generation, r), last: -1n, start: -1 },
      );
    },
    send(to, message) {
      const peer = peers[to];
      if (!peer || !own || closed || message.length > maxBytes) return;
      const head = Buffer.alloc(headBytes);
      head.writeUInt16LE(own.rank, 0);
      start.copy(head, 2);
      head.writeBigUInt64LE(counter++, 6);
      const cipher = createCipheriv('aes-256-gcm', own.key, head.subarray(2));
      cipher.setAAD(aad(own.rank, to));
      const text = [cipher.update(message), cipher.final()];
      socket.send([head, ...text, cipher.getAuthTag()], peer.port, peer.host, () => {});
    },
    onMessage: () => {},
    close() {
      if (closed) return;
      closed = true;
      socket.close();
    },
  };

  socket.on('message', (bytes) => {
    const message = open(bytes);
    if (message) datagrams.onMessage(message.text, message.from);
    else datagrams.refused++;
  });

  function open(bytes: Buffer): { text: Buffer; from: number } | null {
    if (!own || bytes.length < headBytes + tagBytes || bytes.length > headBytes + maxBytes + tagBytes) return null;
    const from = bytes.readUInt16LE(0);
    const peer = peers[from];
    if (!peer) return null;
    const session = bytes.readUInt32LE(2);
    const number = bytes.readBigUInt64LE(6);
    if (peer.start >= 0 && (session !== peer.start || number <= peer.last)) return null;
    try {
      const decipher = createDecipheriv('aes-256-gcm', peer.key, bytes.subarray(2, headBytes));
      decipher.setAAD(aad(from, own.rank));
      decipher.setAuthTag(bytes.subarray(bytes.length - tagBytes));
      const text = Buffer.concat([
        decipher.update(bytes.subarray(headBytes, bytes.length - tagBytes)),
        decipher.final(),
      ]);
      peer.start = session;
      peer.last = number;
      return { text, from };
    } catch {
      return null;
    }
  }
  return datagrams;
}

const aad = (from: number, to: number): Buffer => {
  const b = Buffer.alloc(4);
  b.writeUInt16LE(from, 0);
  b.writeUInt16LE(to, 2);
  return b;
};
