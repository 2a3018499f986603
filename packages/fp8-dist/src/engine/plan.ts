// What a collective moves on one rank: which elements are whose share, in which chunks they travel, and how many there are.
// Nothing here changes while the operation runs.
import { dtypes } from 'fp8-core';
import { slotBytes } from '../link/slots.ts';
import type { CommMath } from '../math/math.ts';
import { type Descriptor, eagerBytes } from './descriptor.ts';
import { Layout } from './layout.ts';
import type { OpRequest } from './request.ts';

/** Chunks and pieces that an operation still waits for when it begins. */
export interface Counts {
  /** Chunks to send for others to sum or to keep. */
  scatters: number;
  /** Chunks of other owners to receive. */
  results: number;
  /** Parts to sum, or to keep, from others. */
  pieces: number;
  /** Chunks of this rank's own share. */
  own: number;
}

export class Plan {
  readonly request: OpRequest;
  /** This rank's place in the group. */
  readonly me: number;
  readonly size: number;
  readonly input: Layout;
  readonly output: Layout;
  readonly descriptor: Descriptor;
  /** The data travels with the announcement. */
  readonly eager: boolean;
  readonly reduces: boolean;
  readonly gathers: boolean;
  private readonly chunkElements: number;

  constructor(request: OpRequest, me: number) {
    this.request = request;
    this.me = me;
    this.size = request.members.length;
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
    const { reduce, mean, steps, range, root, shape, scales } = request;
    this.descriptor = { code, dtype, reduce, mean, steps, range, root, count, shape, scales };
    this.eager = count * width <= eagerBytes;
    this.chunkElements = slotBytes / width;
  }

  share(rank: number, bounds: readonly number[] = this.request.bounds): [begin: number, end: number] {
    return [bounds[rank], bounds[rank + 1]];
  }

  chunksOf(rank: number, bounds: readonly number[] = this.request.bounds): number {
    const [begin, end] = this.share(rank, bounds);
    return Math.ceil((end - begin) / this.chunkElements);
  }

  chunkRange(rank: number, chunk: number, bounds: readonly number[] = this.request.bounds): [number, number] {
    const [begin, end] = this.share(rank, bounds);
    const from = begin + chunk * this.chunkElements;
    return [from, Math.min(end, from + this.chunkElements)];
  }

  /** Where element `begin` of this rank's own share lies in its input. Out of place, an all-gather's input is that share. */
  get inputShift(): number {
    return this.request.code === 'allGather' && this.request.out ? this.request.bounds[this.me] : 0;
  }

  /** Where element `begin` of this rank's own share lies in its output. Out of place, a reduce-scatter's output is that share. */
  get outputShift(): number {
    return this.request.out && this.reduces ? this.request.bounds[this.me] : 0;
  }

  counts(): Counts {
    const counts = { scatters: 0, results: 0, pieces: 0, own: 0 };
    if (this.eager) return counts;
    const { bounds, outBounds, code } = this.request;
    const own = this.chunksOf(this.me);
    for (let i = 0; i < this.size; i++) {
      if (i === this.me) continue;
      if (code !== 'allGather' && code !== 'broadcast') counts.scatters += this.chunksOf(i, bounds);
      if (this.gathers) counts.results += this.chunksOf(i);
      if (outBounds) counts.pieces += this.chunksOf(i, outBounds);
    }
    if (this.reduces) counts.pieces += own * (this.size - 1);
    if (this.reduces || this.gathers || outBounds) counts.own = own;
    return counts;
  }

  // --- data that travels with the announcement ---------------------------------------------------------------------------------

  /** A copy of what rank `to` needs of this rank's input; null: nothing. */
  eagerFor(to: number, math: CommMath): Buffer | null {
    const { code } = this.request;
    const [begin, end] =
      code === 'allReduce'
        ? [0, this.input.size]
        : this.share(code === 'allGather' || code === 'broadcast' ? this.me : to);
    if (end <= begin) return null;
    const data = Buffer.allocUnsafe((end - begin) * this.input.width);
    this.input.read(begin - this.inputShift, end - this.inputShift, data, null, math);
    return data;
  }

  /** Bytes that rank `from` must send along with its announcement. */
  eagerLength(from: number): number {
    if (!this.eager) return 0;
    const { code, outBounds } = this.request;
    const { width } = this.input;
    if (code === 'allReduce') return this.input.size * width;
    if (outBounds) return (outBounds[from + 1] - outBounds[from]) * width;
    const [begin, end] = this.share(code === 'reduceScatter' ? this.me : from);
    return (end - begin) * width;
  }
}
