// One collective on one rank: a state machine fed by frames.
//
// Each rank announces the call to all members (descriptor.ts). Small collectives carry their data in the announcement and end
// with the last one. Larger ones go in chunks, once the receiver has announced, so that it has memory for them:
//   scatter   rank j gets from everybody the elements of its share
//   result    the owner of a share sums the parts in rank order in f32, rounds once, and sends the chunk to everybody
// all-reduce = scatter + result, reduce-scatter = scatter, all-gather and broadcast = result, all-to-all and send = scatter
// without a sum. Every element is rounded by one rank only, so all ranks end with the same bits.
//
// The geometry is in plan.ts, the scales of scaled dtypes are in scales.ts, the end of small collectives is in eager.ts.
import { ProtocolError } from '../errors.ts';
import type { Frame } from '../link/frame.ts';
import type { Slot } from '../link/slots.ts';
import type { CommMath } from '../math/math.ts';
import { type Descriptor, encodeDescriptor } from './descriptor.ts';
import { finishEager, inStepOrder } from './eager.ts';
import { Plan } from './plan.ts';
import type { OpRequest } from './request.ts';
import { outScale, shareScales } from './scales.ts';

/** What an operation asks of its engine. Ranks are places in the group. */
export interface OpHost {
  readonly math: CommMath;
  announce(op: Op, to: number, payload: Buffer): void;
  /** A free slot that `readers` ranks will read, or null. */
  takeSlot(readers: number): Slot | null;
  /**
   * The same for parts to sum, which the receiver keeps until all ranks' parts are there: leaves half of the slots to results,
   * which are always consumed. Without that, ranks whose slots all hold parts would wait for each other for ever.
   */
  takePartSlot(): Slot | null;
  sendSlot(op: Op, kind: 'scatter' | 'result', to: number, chunk: number, slot: Slot, bytes: number): void;
}

interface Piece {
  bytes: Uint8Array;
  release: () => void;
}

/** A chunk of this rank's share while its parts come in. */
interface Gathering {
  parts: (Piece | null)[];
  missing: number;
}

const released = (): void => {};

export class Op {
  readonly request: OpRequest;
  readonly me: number;
  readonly size: number;
  readonly descriptor: Descriptor;
  readonly startedAt: number;
  readonly announced: (Descriptor | null)[];
  done = false;
  /** Bytes that went out and came in, for messages and the recorder. */
  moved = 0;
  private readonly host: OpHost;
  private readonly plan: Plan;
  private readonly eagerData: (Uint8Array | null)[];
  private missingAnnouncements: number;
  /** Factor on this rank's elements, by segment, from its own to the shared scale; null: none needed, or not known yet. */
  private ratios: Float64Array | null = null;
  /** Next chunk to send to each rank. */
  private readonly nextScatter: number[];
  private readonly gathering = new Map<number, Gathering>();
  private reducedChunks = 0;
  private readonly ready: number[] = [];
  private scattersLeft: number;
  private resultsLeft: number;
  private piecesLeft: number;
  private ownLeft: number;

  constructor(request: OpRequest, me: number, host: OpHost, now: number) {
    const plan = new Plan(request, me);
    this.request = request;
    this.me = me;
    this.size = plan.size;
    this.host = host;
    this.startedAt = now;
    this.plan = plan;
    this.descriptor = plan.descriptor;
    this.announced = Array(this.size).fill(null);
    this.eagerData = Array(this.size).fill(null);
    this.missingAnnouncements = this.size;
    this.nextScatter = Array(this.size).fill(0);
    const { scatters, results, pieces, own } = plan.counts();
    this.scattersLeft = scatters;
    this.resultsLeft = results;
    this.piecesLeft = pieces;
    this.ownLeft = own;
  }

  /** Ranks (global) that have not announced yet, or whose data is still missing. */
  awaited(): { rank: number; entered: boolean }[] {
    const { members } = this.request;
    const absent = members.filter((_, i) => !this.announced[i]).map((rank) => ({ rank, entered: false }));
    if (absent.length) return absent;
    const waiting = new Set<number>();
    for (const g of this.gathering.values()) {
      g.parts.forEach((p, i) => {
        if (!p) waiting.add(members[i]);
      });
    }
    if (waiting.size === 0) for (const [i, rank] of members.entries()) if (i !== this.me) waiting.add(rank);
    return [...waiting].map((rank) => ({ rank, entered: true }));
  }

  /** How far it is: "12 of 64 chunks". */
  progress(): string {
    const left = this.scattersLeft + this.resultsLeft + this.piecesLeft;
    return this.missingAnnouncements
      ? `${this.size - this.missingAnnouncements} of ${this.size} ranks have entered`
      : `${left} chunks are missing`;
  }

  start(): void {
    const { plan } = this;
    for (let step = 1; step < this.size; step++) {
      const to = (this.me + step) % this.size;
      const data = plan.eager ? plan.eagerFor(to, this.host.math) : null;
      this.host.announce(this, to, encodeDescriptor(this.descriptor, data));
    }
    this.enter(this.me, this.descriptor, plan.eager ? plan.eagerFor(this.me, this.host.math) : null);
  }

  /** @throws ProtocolError if the announcement does not fit the plan that both agree on */
  announcement(from: number, descriptor: Descriptor, data: Uint8Array): void {
    if (this.announced[from]) throw new ProtocolError('announced the same collective twice');
    const expected = this.plan.eagerLength(from);
    if (data.length !== expected)
      throw new ProtocolError(`announced ${data.length} bytes of data instead of ${expected}`);
    this.enter(from, descriptor, this.plan.eager ? data : null);
  }

  private enter(from: number, descriptor: Descriptor, data: Uint8Array | null): void {
    this.announced[from] = descriptor;
    this.eagerData[from] = data;
    if (--this.missingAnnouncements > 0) return;
    // All have announced: the scale of each segment is now known everywhere. This rank's own are overwritten only now.
    const scales = this.announced.map((d) => (d as Descriptor).scales);
    const { final, ratios } = shareScales(this.plan, scales);
    this.ratios = ratios[this.me];
    if (this.plan.eager) finishEager(this.plan, this.eagerData, ratios, this.host.math);
    this.request.scales.set(final);
    if (this.plan.eager || this.size === 1) this.done = true;
  }

  // --- sending -----------------------------------------------------------------------------------------------------------------

  /** Sends what may go now; true if anything went. Results first: others wait for them. */
  pump(): boolean {
    if (this.done || this.plan.eager) return false;
    let sent = false;
    if (this.missingAnnouncements === 0) {
      while (this.sendResult()) sent = true;
      if (!sent && this.plan.gathers && !this.plan.reduces) sent = this.offerOwn();
    }
    if (!sent) sent = this.sendScatter();
    this.checkDone();
    return sent;
  }

  /** All-gather and broadcast: this rank's own elements, chunk by chunk. */
  private offerOwn(): boolean {
    const { plan } = this;
    const chunk = this.reducedChunks;
    if (chunk >= plan.chunksOf(this.me)) return false;
    const [begin, end] = plan.chunkRange(this.me, chunk);
    const slot = this.host.takeSlot(this.size - 1);
    if (!slot) return false;
    const shift = plan.inputShift;
    const bytes = slot.bytes.subarray(0, (end - begin) * plan.input.width);
    plan.input.read(begin - shift, end - shift, bytes, this.ratios, this.host.math);
    if (this.request.out || this.ratios) plan.output.write(begin, end, bytes);
    this.reducedChunks++;
    this.ownLeft--;
    this.broadcastSlot(chunk, slot, bytes.length);
    return true;
  }

  private broadcastSlot(chunk: number, slot: Slot, bytes: number): void {
    for (let step = 1; step < this.size; step++) {
      this.host.sendSlot(this, 'result', (this.me + step) % this.size, chunk, slot, bytes);
    }
    this.moved += bytes * (this.size - 1);
  }

  private sendScatter(): boolean {
    if (this.scattersLeft === 0) return false;
    if (this.descriptor.scales.length && this.missingAnnouncements) return false;
    // Chunk by chunk over all ranks, beginning with the next rank, so that owners can start early and no rank is hit by all.
    let best = -1;
    for (let step = 1; step < this.size; step++) {
      const to = (this.me + step) % this.size;
      if (!this.announced[to] || this.nextScatter[to] >= this.plan.chunksOf(to)) continue;
      if (best < 0 || this.nextScatter[to] < this.nextScatter[best]) best = to;
    }
    if (best < 0) return false;
    const slot = this.plan.reduces ? this.host.takePartSlot() : this.host.takeSlot(1);
    if (!slot) return false;
    const chunk = this.nextScatter[best]++;
    const [begin, end] = this.plan.chunkRange(best, chunk);
    const bytes = slot.bytes.subarray(0, (end - begin) * this.plan.input.width);
    this.plan.input.read(begin, end, bytes, this.ratios, this.host.math);
    this.host.sendSlot(this, 'scatter', best, chunk, slot, bytes.length);
    this.moved += bytes.length;
    this.scattersLeft--;
    return true;
  }

  // --- receiving ---------------------------------------------------------------------------------------------------------------

  /** A chunk from another rank. @throws ProtocolError if it is not one that the plan expects */
  chunk(frame: Frame, from: number, bytes: Uint8Array, release: () => void): void {
    const { plan } = this;
    const { outBounds, bounds } = this.request;
    this.moved += bytes.length;
    if (plan.eager) throw new ProtocolError('sent a chunk of a small collective');
    if (frame.kind === 'result') {
      if (!plan.gathers) throw new ProtocolError('sent a result that nobody asked for');
      const [begin, end] = this.expected(frame, from, bounds, from);
      if (bytes.length !== (end - begin) * plan.input.width) throw new ProtocolError(`sent ${bytes.length} bytes`);
      plan.output.write(begin, end, bytes);
      this.resultsLeft--;
      release();
    } else if (outBounds) {
      const [begin, end] = this.expected(frame, from, outBounds, from);
      if (bytes.length !== (end - begin) * plan.input.width) throw new ProtocolError(`sent ${bytes.length} bytes`);
      plan.output.write(begin, end, bytes);
      this.piecesLeft--;
      release();
    } else {
      const [begin, end] = this.expected(frame, this.me, bounds, from);
      if (!plan.reduces || bytes.length !== (end - begin) * plan.input.width) {
        throw new ProtocolError(`sent ${bytes.length} bytes to sum`);
      }
      this.gather(frame.chunk, from, { bytes, release });
    }
    this.checkDone();
  }

  private expected(frame: Frame, shareOf: number, bounds: readonly number[], from: number): [number, number] {
    if (frame.chunk >= this.plan.chunksOf(shareOf, bounds))
      throw new ProtocolError(`sent chunk ${frame.chunk} (rank ${from})`);
    return this.plan.chunkRange(shareOf, frame.chunk, bounds);
  }

  private gather(chunk: number, from: number, piece: Piece): void {
    let g = this.gathering.get(chunk);
    if (!g) {
      g = { parts: Array(this.size).fill(null), missing: this.size - 1 };
      this.gathering.set(chunk, g);
    }
    if (g.parts[from]) throw new ProtocolError(`sent chunk ${chunk} twice`);
    g.parts[from] = piece;
    this.piecesLeft--;
    if (--g.missing === 0) this.ready.push(chunk);
  }

  /** Sums the next complete chunk of this rank's share and sends it to all (all-reduce) or keeps it (reduce-scatter). */
  private sendResult(): boolean {
    const chunk = this.ready[0];
    if (chunk === undefined) return false;
    const { plan } = this;
    const { math } = this.host;
    const { dtype, reduce, steps } = this.request;
    const [begin, end] = plan.chunkRange(this.me, chunk);
    const length = (end - begin) * plan.input.width;
    const slot = plan.gathers ? this.host.takeSlot(this.size - 1) : null;
    if (plan.gathers && !slot) return false;
    this.ready.shift();
    const g = this.gathering.get(chunk) as Gathering;
    this.gathering.delete(chunk);
    let own = plan.input.direct(begin, end, this.ratios);
    if (!own) {
      own = Buffer.allocUnsafe(length);
      plan.input.read(begin, end, own, this.ratios, math);
    }
    g.parts[this.me] = { bytes: own, release: released };
    const parts = inStepOrder(
      plan,
      g.parts.map((p) => (p as Piece).bytes),
    );
    const shift = plan.outputShift;
    const direct = plan.output.direct(begin - shift, end - shift, null);
    const sum = slot ? slot.bytes.subarray(0, length) : (direct ?? Buffer.allocUnsafe(length));
    math.reduce(sum, parts, dtype, reduce, outScale(plan), steps);
    if (sum !== direct) plan.output.write(begin - shift, end - shift, sum);
    for (const p of g.parts) (p as Piece).release();
    if (slot) this.broadcastSlot(chunk, slot, length);
    this.ownLeft--;
    return true;
  }

  private checkDone(): void {
    if (this.scattersLeft || this.resultsLeft || this.piecesLeft || this.missingAnnouncements) return;
    if (this.request.outBounds && this.ownLeft > 0) this.keepOwnPiece();
    if (this.ownLeft === 0 && this.ready.length === 0) this.done = true;
  }

  /** All-to-all: the piece that this rank sends to itself. */
  private keepOwnPiece(): void {
    const { plan } = this;
    this.ownLeft = 0;
    const [begin, end] = plan.share(this.me);
    const outBegin = (this.request.outBounds as readonly number[])[this.me];
    if (end <= begin) return;
    const copy = Buffer.allocUnsafe((end - begin) * plan.input.width);
    plan.input.read(begin, end, copy, this.ratios, this.host.math);
    plan.output.write(outBegin, outBegin + end - begin, copy);
  }
}
