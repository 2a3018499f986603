// One collective on one rank: a state machine fed by frames.
//
// Each rank announces the call to all members (descriptor.ts). Small collectives carry their data in the announcement and end
// with the last one. Larger ones go in chunks, once the receiver has announced, so that it has memory for them:
//   scatter   rank j gets from everybody the elements of its share
//   result    the owner of a share sums the parts in rank order in f32, rounds once, and sends the chunk to everybody
// all-reduce = scatter + result, reduce-scatter = scatter, all-gather and broadcast = result, all-to-all and send = scatter
// without a sum. Every element is rounded by one rank only, so all ranks end with the same bits.
//
// Scaled dtypes (FP8-LM, section 3.2 of arXiv:2310.18313): the shared scale is the minimum over the ranks; each rank rounds its
// part to it before sending; the division by the number of ranks goes into the scale.
import { dtypes } from 'fp8-core';
import { ProtocolError } from '../errors.ts';
import type { Frame } from '../link/frame.ts';
import { type Slot, slotBytes } from '../link/slots.ts';
import type { CommMath } from '../math/math.ts';
import { type Descriptor, eagerBytes, encodeDescriptor } from './descriptor.ts';
import { Layout } from './layout.ts';
import type { OpRequest } from './request.ts';

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
  private readonly input: Layout;
  private readonly output: Layout;
  private readonly eager: boolean;
  private readonly reduces: boolean;
  private readonly gathers: boolean;
  private readonly eagerData: (Uint8Array | null)[];
  private missingAnnouncements: number;
  /** Factor on this rank's elements, by segment, from its own to the shared scale; null: none needed, or not known yet. */
  private ratios: Float64Array | null = null;
  private readonly chunkElements: number;
  /** Next chunk to send to each rank. */
  private readonly nextScatter: number[];
  private readonly gathering = new Map<number, Gathering>();
  private reducedChunks = 0;
  private readonly ready: number[] = [];
  private scattersLeft = 0;
  private resultsLeft = 0;
  private piecesLeft = 0;
  private ownLeft = 0;

  constructor(request: OpRequest, me: number, host: OpHost, now: number) {
    this.request = request;
    this.me = me;
    this.size = request.members.length;
    this.host = host;
    this.startedAt = now;
    const { dtype, code } = request;
    const width = dtypes[dtype].bytes;
    this.input = new Layout(request.segments, dtype, width);
    this.output = request.out ? new Layout(request.out, dtype, width) : this.input;
    this.reduces = code === 'allReduce' || code === 'reduceScatter';
    this.gathers = code === 'allReduce' || code === 'allGather' || code === 'broadcast';
    const count =
      code === 'allToAll' || code === 'allGather' || code === 'send'
        ? Math.max(this.input.size, this.output.size)
        : this.input.size;
    this.descriptor = {
      code,
      dtype,
      reduce: request.reduce,
      mean: request.mean,
      steps: request.steps,
      range: request.range,
      root: request.root,
      count,
      shape: request.shape,
      scales: request.scales,
    };
    this.eager = count * width <= eagerBytes;
    this.chunkElements = slotBytes / width;
    this.announced = Array(this.size).fill(null);
    this.eagerData = Array(this.size).fill(null);
    this.missingAnnouncements = this.size;
    this.nextScatter = Array(this.size).fill(0);
    if (!this.eager) this.plan();
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
    for (let step = 1; step < this.size; step++) {
      const to = (this.me + step) % this.size;
      this.host.announce(this, to, encodeDescriptor(this.descriptor, this.eager ? this.eagerFor(to) : null));
    }
    this.enter(this.me, this.descriptor, this.eager ? this.eagerFor(this.me) : null);
  }

  // --- plan ------------------------------------------------------------------------------------------------------------------

  private share(rank: number, bounds: readonly number[] = this.request.bounds): [begin: number, end: number] {
    return [bounds[rank], bounds[rank + 1]];
  }

  private chunksOf(rank: number, bounds: readonly number[] = this.request.bounds): number {
    const [begin, end] = this.share(rank, bounds);
    return Math.ceil((end - begin) / this.chunkElements);
  }

  private chunkRange(rank: number, chunk: number, bounds: readonly number[] = this.request.bounds): [number, number] {
    const [begin, end] = this.share(rank, bounds);
    const from = begin + chunk * this.chunkElements;
    return [from, Math.min(end, from + this.chunkElements)];
  }

  private plan(): void {
    const { bounds, outBounds, code } = this.request;
    const own = this.chunksOf(this.me);
    for (let i = 0; i < this.size; i++) {
      if (i === this.me) continue;
      if (code !== 'allGather' && code !== 'broadcast') this.scattersLeft += this.chunksOf(i, bounds);
      if (this.gathers) this.resultsLeft += this.chunksOf(i);
      if (outBounds) this.piecesLeft += this.chunksOf(i, outBounds);
    }
    if (this.reduces) this.piecesLeft += own * (this.size - 1);
    if (this.reduces || this.gathers || outBounds) this.ownLeft = own;
  }

  // --- scales ----------------------------------------------------------------------------------------------------------------

  /** All have announced: the scale of each segment is now known everywhere. */
  private settleScales(): void {
    const { scales } = this.descriptor;
    if (scales.length === 0) return;
    const { members, bounds, code } = this.request;
    const n = members.length;
    const ratios = new Float64Array(scales.length);
    const final = new Float32Array(scales.length);
    for (let s = 0; s < scales.length; s++) {
      const owner = this.reduces ? -1 : code === 'send' ? 0 : this.soleOwner(s);
      let shared = Infinity;
      for (const d of this.announced) shared = Math.min(shared, (d as Descriptor).scales[s]);
      final[s] = owner >= 0 ? (this.announced[owner] as Descriptor).scales[s] : shared;
      ratios[s] = owner >= 0 ? 1 : shared / scales[s];
      if (this.reduces) final[s] *= this.outScale() * (this.request.mean ? n : 1);
      if (code === 'reduceScatter' && !this.request.out) {
        const { starts } = this.input;
        const mine = starts[s] >= bounds[this.me] && starts[s + 1] <= bounds[this.me + 1];
        if (!mine) final[s] = scales[s];
      }
    }
    this.ratios = ratios.some((r) => r !== 1) ? ratios : null;
    this.request.scales.set(final);
  }

  /** The one rank whose share holds all of segment s, or -1. */
  private soleOwner(s: number): number {
    const { bounds, code, root } = this.request;
    if (code === 'broadcast') return root;
    if (code !== 'allGather') return -1;
    const begin = this.output.starts[s];
    const end = this.output.starts[s + 1];
    for (let i = 0; i < this.size; i++) if (begin >= bounds[i] && end <= bounds[i + 1] && end > begin) return i;
    return -1;
  }

  /** Factor on a sum before it is stored. */
  private outScale(): number {
    const { reduce, mean, range, dtype } = this.request;
    if (reduce !== 'sum') return 1;
    if (this.descriptor.scales.length) return range === 'fit' ? 2 ** -Math.ceil(Math.log2(this.size)) : 1;
    return mean && dtype !== 'i32' ? 1 / this.size : 1;
  }

  /** Ratios from another rank's scales to the shared ones; for data that came with an announcement. */
  private ratiosOf(rank: number, own: Float32Array): Float64Array | null {
    if (own.length === 0) return null;
    const d = this.announced[rank] as Descriptor;
    const ratios = new Float64Array(own.length);
    for (let s = 0; s < own.length; s++) {
      let shared = Infinity;
      for (const other of this.announced) shared = Math.min(shared, (other as Descriptor).scales[s]);
      ratios[s] = !this.reduces && (this.request.code === 'send' || this.soleOwner(s) >= 0) ? 1 : shared / d.scales[s];
    }
    return ratios.some((r) => r !== 1) ? ratios : null;
  }

  // --- announcements -----------------------------------------------------------------------------------------------------------

  private eagerRange(to: number): [number, number] {
    const { code } = this.request;
    if (code === 'allReduce') return [0, this.input.size];
    return this.share(code === 'allGather' || code === 'broadcast' ? this.me : to);
  }

  private eagerFor(to: number): Buffer | null {
    const [begin, end] = this.eagerRange(to);
    // Out of place, this rank's part of an all-gather is all of its input.
    const shift = this.request.code === 'allGather' && this.request.out ? begin : 0;
    if (end <= begin) return null;
    const data = Buffer.allocUnsafe((end - begin) * this.input.width);
    this.input.read(begin - shift, end - shift, data, null, this.host.math);
    return data;
  }

  /** @throws ProtocolError if the announcement does not fit the plan that both agree on */
  announcement(from: number, descriptor: Descriptor, data: Uint8Array): void {
    if (this.announced[from]) throw new ProtocolError('announced the same collective twice');
    const expected = this.eager ? this.eagerLength(from) : 0;
    if (data.length !== expected)
      throw new ProtocolError(`announced ${data.length} bytes of data instead of ${expected}`);
    this.enter(from, descriptor, this.eager ? data : null);
  }

  private eagerLength(from: number): number {
    const { code, outBounds } = this.request;
    const { width } = this.input;
    if (code === 'allReduce') return this.input.size * width;
    if (outBounds) return (outBounds[from + 1] - outBounds[from]) * width;
    const [begin, end] = this.share(code === 'reduceScatter' ? this.me : from);
    return (end - begin) * width;
  }

  private enter(from: number, descriptor: Descriptor, data: Uint8Array | null): void {
    this.announced[from] = descriptor;
    this.eagerData[from] = data;
    if (--this.missingAnnouncements > 0) return;
    // The final scales overwrite this rank's own in the request, so keep what was announced.
    const own = Float32Array.from(this.descriptor.scales);
    (this.announced[this.me] as Descriptor).scales = own;
    this.settleScales();
    if (this.eager) this.finishEager(own);
    else if (this.size === 1) this.done = true;
  }

  private finishEager(own: Float32Array): void {
    const { math } = this.host;
    const { code, outBounds, dtype, reduce, steps } = this.request;
    if (this.reduces) {
      const [begin, end] = code === 'allReduce' ? [0, this.input.size] : this.share(this.me);
      if (end > begin) {
        const parts = this.eagerData.map((d, i) =>
          this.input.rescaled(begin, end, d as Uint8Array, this.ratiosOf(i, own), math),
        );
        const sum = Buffer.allocUnsafe((end - begin) * this.input.width);
        if (code === 'reduceScatter') math.reduce(sum, this.inStepOrder(parts), dtype, reduce, this.outScale(), steps);
        else this.reduceByShares(sum, parts);
        const shift = this.request.out ? begin : 0;
        this.output.write(begin - shift, end - shift, sum);
      }
    } else {
      for (let i = 0; i < this.size; i++) {
        const [begin, end] = this.share(i, outBounds ?? this.request.bounds);
        const data = this.eagerData[i];
        if (end <= begin || !data) continue;
        this.output.write(begin, end, this.output.rescaled(begin, end, data, this.ratiosOf(i, own), math));
      }
    }
    this.done = true;
  }

  /** The order of a reduction that rounds at every step depends on the owner of the share, as in a ring. */
  private reduceByShares(sum: Uint8Array, parts: Uint8Array[]): void {
    const { dtype, reduce, steps } = this.request;
    if (!steps) return this.host.math.reduce(sum, parts, dtype, reduce, this.outScale(), false);
    const w = this.input.width;
    for (let owner = 0; owner < this.size; owner++) {
      const [begin, end] = this.share(owner);
      if (end <= begin) continue;
      const cut = parts.map((p) => p.subarray(begin * w, end * w));
      this.host.math.reduce(
        sum.subarray(begin * w, end * w),
        this.inStepOrder(cut, owner),
        dtype,
        reduce,
        this.outScale(),
        true,
      );
    }
  }

  private inStepOrder(parts: Uint8Array[], owner = this.me): Uint8Array[] {
    if (!this.request.steps) return parts;
    return parts.map((_, i) => parts[(owner + 1 + i) % this.size]);
  }

  // --- sending -----------------------------------------------------------------------------------------------------------------

  /** Sends what may go now; true if anything went. Results first: others wait for them. */
  pump(): boolean {
    if (this.done || this.eager) return false;
    let sent = false;
    if (this.missingAnnouncements === 0) {
      while (this.sendResult()) sent = true;
      if (!sent && this.gathers && !this.reduces) sent = this.offerOwn();
    }
    if (!sent) sent = this.sendScatter();
    this.checkDone();
    return sent;
  }

  /** All-gather and broadcast: this rank's own elements, chunk by chunk. */
  private offerOwn(): boolean {
    const chunk = this.reducedChunks;
    if (chunk >= this.chunksOf(this.me)) return false;
    const [begin, end] = this.chunkRange(this.me, chunk);
    const slot = this.host.takeSlot(this.size - 1);
    if (!slot) return false;
    const shift = this.request.code === 'allGather' && this.request.out ? this.request.bounds[this.me] : 0;
    const bytes = slot.bytes.subarray(0, (end - begin) * this.input.width);
    this.input.read(begin - shift, end - shift, bytes, this.ratios, this.host.math);
    if (this.request.out || this.ratios) this.output.write(begin, end, bytes);
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
      if (!this.announced[to] || this.nextScatter[to] >= this.chunksOf(to)) continue;
      if (best < 0 || this.nextScatter[to] < this.nextScatter[best]) best = to;
    }
    if (best < 0) return false;
    const slot = this.reduces ? this.host.takePartSlot() : this.host.takeSlot(1);
    if (!slot) return false;
    const chunk = this.nextScatter[best]++;
    const [begin, end] = this.chunkRange(best, chunk);
    const bytes = slot.bytes.subarray(0, (end - begin) * this.input.width);
    this.input.read(begin, end, bytes, this.ratios, this.host.math);
    this.host.sendSlot(this, 'scatter', best, chunk, slot, bytes.length);
    this.moved += bytes.length;
    this.scattersLeft--;
    return true;
  }

  // --- receiving ---------------------------------------------------------------------------------------------------------------

  /** A chunk from another rank. @throws ProtocolError if it is not one that the plan expects */
  chunk(frame: Frame, from: number, bytes: Uint8Array, release: () => void): void {
    const { outBounds, bounds } = this.request;
    this.moved += bytes.length;
    if (this.eager) throw new ProtocolError('sent a chunk of a small collective');
    if (frame.kind === 'result') {
      if (!this.gathers) throw new ProtocolError('sent a result that nobody asked for');
      const [begin, end] = this.expected(frame, from, bounds, from);
      if (bytes.length !== (end - begin) * this.input.width) throw new ProtocolError(`sent ${bytes.length} bytes`);
      this.output.write(begin, end, bytes);
      this.resultsLeft--;
      release();
    } else if (outBounds) {
      const [begin, end] = this.expected(frame, from, outBounds, from);
      if (bytes.length !== (end - begin) * this.input.width) throw new ProtocolError(`sent ${bytes.length} bytes`);
      this.output.write(begin, end, bytes);
      this.piecesLeft--;
      release();
    } else {
      const [begin, end] = this.expected(frame, this.me, bounds, from);
      if (!this.reduces || bytes.length !== (end - begin) * this.input.width) {
        throw new ProtocolError(`sent ${bytes.length} bytes to sum`);
      }
      this.gather(frame.chunk, from, { bytes, release });
    }
    this.checkDone();
  }

  private expected(frame: Frame, shareOf: number, bounds: readonly number[], from: number): [number, number] {
    if (frame.chunk >= this.chunksOf(shareOf, bounds))
      throw new ProtocolError(`sent chunk ${frame.chunk} (rank ${from})`);
    return this.chunkRange(shareOf, frame.chunk, bounds);
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
    const { math } = this.host;
    const { dtype, reduce, steps } = this.request;
    const [begin, end] = this.chunkRange(this.me, chunk);
    const length = (end - begin) * this.input.width;
    const slot = this.gathers ? this.host.takeSlot(this.size - 1) : null;
    if (this.gathers && !slot) return false;
    this.ready.shift();
    const g = this.gathering.get(chunk) as Gathering;
    this.gathering.delete(chunk);
    let own = this.input.direct(begin, end, this.ratios);
    if (!own) {
      own = Buffer.allocUnsafe(length);
      this.input.read(begin, end, own, this.ratios, math);
    }
    g.parts[this.me] = { bytes: own, release: released };
    const parts = this.inStepOrder(g.parts.map((p) => (p as Piece).bytes));
    const shift = this.request.out ? this.request.bounds[this.me] : 0;
    const direct = this.output.direct(begin - shift, end - shift, null);
    const sum = slot ? slot.bytes.subarray(0, length) : (direct ?? Buffer.allocUnsafe(length));
    math.reduce(sum, parts, dtype, reduce, this.outScale(), steps);
    if (sum !== direct) this.output.write(begin - shift, end - shift, sum);
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
    this.ownLeft = 0;
    const [begin, end] = this.share(this.me);
    const outBegin = (this.request.outBounds as readonly number[])[this.me];
    if (end <= begin) return;
    const copy = Buffer.allocUnsafe((end - begin) * this.input.width);
    this.input.read(begin, end, copy, this.ratios, this.host.math);
    this.output.write(outBegin, outBegin + end - begin, copy);
  }
}
