// The frame: 56 bytes in front of every payload, fixed so that decoding touches no parser. Each field is checked here before
// anybody uses it. `seq` numbers the frames from one rank to another (0: not numbered, may be lost), `ack` is the highest
// number received from the other side without a gap; the checksum covers header and payload.
import { ProtocolError } from '../errors.ts';
import { crc32 } from './checksum.ts';

export const frameKinds = ['announce', 'scatter', 'result', 'ack', 'nack', 'beat', 'abort', 'bye'] as const;
export type FrameKind = (typeof frameKinds)[number];

/** Where the payload is: right behind the header, in the next message part, or in a slot of the sender's shared arena. */
export const carriers = ['inline', 'part', 'slot'] as const;
export type Carrier = (typeof carriers)[number];

export const headerBytes = 56;
/** Largest payload of any frame; sockets refuse more. */
export const maxPayloadBytes = 1 << 20;
const magic = 0x31443846; // "F8D1"

export interface Header {
  kind: FrameKind;
  carrier: Carrier;
  from: number;
  to: number;
  /** Names the job and its incarnation: frames of another one are dropped. */
  generation: number;
  seq: number;
  ack: number;
  group: number;
  /** 0: collectives of the group; 1 + src * size + dst: sends from src to dst. */
  channel: number;
  /** Number of the operation in its group and channel. */
  opSeq: number;
  /** Which chunk of the sender's (scatter) or owner's (result) shard. */
  chunk: number;
  slot: number;
  payloadBytes: number;
}

/** Writes header and checksum into `into` (at least 56 bytes). An arena payload is not part of the checksum. */
export function encodeHeader(into: Buffer, h: Header, payload: Uint8Array | null): void {
  into.writeUInt32LE(magic, 0);
  into[4] = frameKinds.indexOf(h.kind);
  into[5] = carriers.indexOf(h.carrier);
  into.writeUInt16LE(h.from, 6);
  into.writeUInt16LE(h.to, 8);
  into.writeUInt16LE(h.slot, 10);
  into.writeUInt32LE(h.generation, 12);
  into.writeUInt32LE(h.seq, 16);
  into.writeUInt32LE(h.ack, 20);
  into.writeUInt32LE(h.group, 24);
  into.writeUInt32LE(h.channel, 28);
  into.writeUInt32LE(h.opSeq, 32);
  into.writeUInt32LE(h.chunk, 36);
  into.writeUInt32LE(h.payloadBytes, 40);
  into.writeUInt32LE(0, 44);
  into.writeUInt32LE(0, 48);
  sealHeader(into, payload && h.carrier !== 'slot' ? payload : null);
}

/** Computes the checksum of a header whose fields are written. */
export function sealHeader(header: Buffer, payload: Uint8Array | null): void {
  const crc = crc32(header.subarray(0, 52));
  header.writeUInt32LE(payload?.length ? crc32(payload, crc) : crc, 52);
}

/** A frame as it came in; `payload` is null when it lies in the sender's arena. */
export interface Frame extends Header {
  payload: Uint8Array | null;
}

/**
 * Checks and decodes the parts of one message.
 * @throws ProtocolError naming the first field that is wrong
 */
export function decodeFrame(parts: readonly Uint8Array[]): Frame {
  const first = parts[0];
  if (!first || first.length < headerBytes) throw new ProtocolError(`a frame of ${first?.length ?? 0} bytes`);
  if (parts.length > 2) throw new ProtocolError(`a message of ${parts.length} parts`);
  const b = Buffer.from(first.buffer, first.byteOffset, first.byteLength);
  if (b.readUInt32LE(0) !== magic) throw new ProtocolError('not a frame of this protocol version');
  const kind = frameKinds[b[4]];
  const carrier = carriers[b[5]];
  if (!kind || !carrier) throw new ProtocolError(`kind ${b[4]}, carrier ${b[5]}`);
  const payloadBytes = b.readUInt32LE(40);
  if (payloadBytes > maxPayloadBytes) throw new ProtocolError(`a payload of ${payloadBytes} bytes`);
  const inline = carrier === 'inline' ? payloadBytes : 0;
  if (b.length !== headerBytes + inline) throw new ProtocolError(`${b.length} bytes for a payload of ${inline}`);
  if ((carrier === 'part') !== (parts.length === 2))
    throw new ProtocolError(`${parts.length} parts, carrier ${carrier}`);
  let payload: Uint8Array | null = null;
  if (carrier === 'inline') payload = b.subarray(headerBytes);
  else if (carrier === 'part') {
    payload = parts[1];
    if (payload.length !== payloadBytes) throw new ProtocolError(`${payload.length} bytes, ${payloadBytes} announced`);
  }
  const crc = crc32(b.subarray(0, 52));
  if ((payload?.length ? crc32(payload, crc) : crc) !== b.readUInt32LE(52)) throw new ProtocolError('bad checksum');
  return {
    kind,
    carrier,
    from: b.readUInt16LE(6),
    to: b.readUInt16LE(8),
    slot: b.readUInt16LE(10),
    generation: b.readUInt32LE(12),
    seq: b.readUInt32LE(16),
    ack: b.readUInt32LE(20),
    group: b.readUInt32LE(24),
    channel: b.readUInt32LE(28),
    opSeq: b.readUInt32LE(32),
    chunk: b.readUInt32LE(36),
    payloadBytes,
    payload,
  };
}
