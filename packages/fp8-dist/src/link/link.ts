// The link to one peer: frames are numbered, kept until acknowledged, and repeated when the other side reports a gap or stays
// silent, because ZeroMQ loses queued messages without a word when a TCP connection is cut. The receiver takes frames in
// order only (go back n): duplicates and frames after a gap are dropped, so a cut can neither lose, double nor shift.
//
// Payloads in slots: over a wire the acknowledgement frees the slot; in a shared arena the peer reads the slot in place and
// frees it by a numbered `ack` frame that lists slots.
import type { Transport } from '../transport/transport.ts';
import { encodeHeader, type Frame, type FrameKind, headerBytes, sealHeader } from './frame.ts';
import { type Slot, type SlotPool, slotBytes } from './slots.ts';

/** What a link needs from its engine. */
export interface LinkHost {
  readonly rank: number;
  readonly generation: number;
  readonly transport: Transport;
  readonly pool: SlotPool;
  deliver(frame: Frame, from: number, release: () => void): void;
}

interface Sent {
  seq: number;
  parts: Uint8Array[];
  slot: Slot | null;
  bytes: number;
}

const repeatAfterMs = 300;
const ackDelayMs = 5;
const ackEveryBytes = 1 << 20;

export interface OpAddress {
  group: number;
  channel: number;
  opSeq: number;
}

export class Link {
  /** Frames dropped: repeated, out of order, of another job. */
  readonly counters = { duplicates: 0, gaps: 0, repeated: 0 };
  /** Payload bytes that went through shared memory. */
  readonly shared = { sent: 0, received: 0 };
  readonly peer: number;
  private readonly host: LinkHost;
  /** The peer's arena, mapped here; null when payloads travel on the wire. */
  readonly peerArena: Uint8Array | null;
  /** True when the peer reads our slots in place. */
  private readonly readsOurArena: boolean;
  private nextSeq = 1;
  private received = 0;
  private readonly unacked: Sent[] = [];
  private lastProgress = 0;
  private repeatMs = repeatAfterMs;
  private ackOwed = 0;
  private ackDueAt = 0;
  private nackedFor = 0;
  private nackedAt = 0;
  private releases: number[] = [];
  private readonly slotsOut = new Map<number, Slot>();

  constructor(host: LinkHost, peer: number, peerArena: Uint8Array | null, readsOurArena: boolean) {
    this.host = host;
    this.peer = peer;
    this.peerArena = peerArena;
    this.readsOurArena = readsOurArena;
  }

  get idle(): boolean {
    return this.unacked.length === 0 && this.slotsOut.size === 0;
  }

  /** True when an answer should go soon: freed slots, or many bytes to acknowledge. */
  get owes(): boolean {
    return this.releases.length > 0 || this.ackOwed > ackEveryBytes;
  }

  /** Sends a small payload, copied into the frame. */
  sendInline(kind: FrameKind, op: OpAddress, payload: Uint8Array | null, now: number): void {
    const bytes = payload?.length ?? 0;
    const message = Buffer.allocUnsafe(headerBytes + bytes);
    if (payload) message.set(payload, headerBytes);
    const header = this.header(kind, 'inline', op, 0, 0, bytes);
    encodeHeader(message, header, payload);
    this.keepAndSend({ seq: header.seq, parts: [message], slot: null, bytes: message.length }, now);
  }

  /** Sends `bytes` bytes of a slot; the slot loses one reader once the peer has them. */
  sendSlot(kind: FrameKind, op: OpAddress, chunk: number, slot: Slot, bytes: number, now: number): void {
    const shared = this.readsOurArena;
    const payload = slot.bytes.subarray(0, bytes);
    const header = this.header(kind, shared ? 'slot' : 'part', op, chunk, slot.index, bytes);
    const message = Buffer.allocUnsafe(headerBytes);
    encodeHeader(message, header, payload);
    if (shared) {
      this.slotsOut.set(slot.index, slot);
      this.shared.sent += bytes;
    }
    this.keepAndSend(
      {
        seq: header.seq,
        parts: shared ? [message] : [message, payload],
        slot: shared ? null : slot,
        bytes: headerBytes + bytes,
      },
      now,
    );
  }

  private header(
    kind: FrameKind,
    carrier: 'inline' | 'part' | 'slot',
    op: OpAddress,
    chunk: number,
    slot: number,
    n: number,
  ) {
    this.ackOwed = 0;
    this.ackDueAt = 0;
    const { rank, generation } = this.host;
    const seq = this.nextSeq++;
    return {
      kind,
      carrier,
      from: rank,
      to: this.peer,
      generation,
      seq,
      ack: this.received,
      ...op,
      chunk,
      slot,
      payloadBytes: n,
    };
  }

  private keepAndSend(sent: Sent, now: number): void {
    if (this.unacked.length === 0) this.lastProgress = now;
    this.unacked.push(sent);
    this.host.transport.send(this.peer, sent.parts);
  }

  /** Takes a checked frame of this peer. */
  receive(frame: Frame, now: number): void {
    this.acknowledged(frame.ack, now);
    if (frame.kind === 'nack') return this.repeat(64, now);
    if (frame.seq === 0) return;
    if (frame.seq !== this.received + 1) {
      if (frame.seq <= this.received) this.counters.duplicates++;
      else this.counters.gaps++;
      if (frame.seq <= this.received) this.ackDueAt = now;
      else this.reportGap(now);
      return;
    }
    this.received = frame.seq;
    this.ackOwed += headerBytes + (frame.carrier === 'slot' ? 0 : frame.payloadBytes);
    if (this.ackDueAt === 0) this.ackDueAt = now + ackDelayMs;
    if (this.ackOwed > ackEveryBytes) this.ackDueAt = now;
    if (frame.kind === 'ack') return this.slotsReleased(frame);
    if (frame.carrier === 'slot') this.shared.received += frame.payloadBytes;
    this.host.deliver(frame, this.peer, frame.carrier === 'slot' ? () => this.releases.push(frame.slot) : nothing);
  }

  private acknowledged(ack: number, now: number): void {
    while (this.unacked.length && this.unacked[0].seq <= ack) {
      const { slot } = this.unacked.shift() as Sent;
      this.lastProgress = now;
      this.repeatMs = repeatAfterMs;
      if (slot) this.host.pool.release(slot);
    }
  }

  private slotsReleased(frame: Frame): void {
    const list = frame.payload as Buffer | null;
    for (let i = 0; list && i + 2 <= list.length; i += 2) {
      const slot = this.slotsOut.get(list.readUInt16LE(i));
      if (!slot) continue;
      this.slotsOut.delete(slot.index);
      this.host.pool.release(slot);
    }
  }

  /** A frame before this one is missing, or this one is broken: ask for all from the first missing one on, once. */
  reportGap(now: number): void {
    if (this.nackedFor === this.received && now - this.nackedAt < 50) return;
    this.nackedFor = this.received;
    this.nackedAt = now;
    this.sendBare('nack');
  }

  private repeat(most: number, now: number): void {
    this.lastProgress = now;
    for (const sent of this.unacked.slice(0, most)) {
      this.counters.repeated++;
      // A fresh header: ZeroMQ may still be reading the old one.
      const header = Buffer.from(sent.parts[0]);
      if (sent.parts.length === 2) {
        header.writeUInt32LE(this.received, 20);
        sealHeader(header, sent.parts[1]);
      }
      this.host.transport.send(this.peer, sent.parts.length === 2 ? [header, sent.parts[1]] : [header]);
    }
  }

  private sendBare(kind: 'ack' | 'nack'): void {
    const message = Buffer.allocUnsafe(headerBytes);
    const { rank, generation } = this.host;
    this.ackOwed = 0;
    this.ackDueAt = 0;
    const op = { group: 0, channel: 0, opSeq: 0, chunk: 0, slot: 0, payloadBytes: 0 };
    const header = {
      kind,
      carrier: 'inline' as const,
      from: rank,
      to: this.peer,
      generation,
      seq: 0,
      ack: this.received,
      ...op,
    };
    encodeHeader(message, header, null);
    this.host.transport.send(this.peer, [message]);
  }

  /** Sends what is due: freed slots at once, acknowledgements, repeats of frames that nobody acknowledged. */
  flush(now: number): void {
    if (this.releases.length) {
      const list = Buffer.allocUnsafe(2 * this.releases.length);
      this.releases.forEach((slot, i) => {
        list.writeUInt16LE(slot, 2 * i);
      });
      this.releases = [];
      this.sendInline('ack', { group: 0, channel: 0, opSeq: 0 }, list, now);
    }
    if (this.ackDueAt && now >= this.ackDueAt) this.sendBare('ack');
    if (this.unacked.length && now - this.lastProgress > this.repeatMs) {
      this.repeatMs = Math.min(2 * this.repeatMs, 2000);
      this.repeat(8, now);
    }
  }
}

const nothing = (): void => {};

/** The bytes of a peer's slot; null if the peer names one outside of its arena. */
export function slotView(arena: Uint8Array, slot: number, bytes: number): Uint8Array | null {
  const begin = slot * slotBytes;
  return bytes <= slotBytes && begin + bytes <= arena.length ? arena.subarray(begin, begin + bytes) : null;
}
