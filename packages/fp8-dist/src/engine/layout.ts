// The elements of a collective: one or more tensors seen as a single run of elements, so that many small tensors cost one
// exchange. A tensor is a segment; scaled dtypes have one scale a segment.
import type { DType } from 'fp8-core';
import type { CommMath } from '../math/math.ts';

export class Layout {
  readonly segments: readonly Uint8Array[];
  readonly dtype: DType;
  readonly width: number;
  /** First element of each segment, and the total at the end. */
  readonly starts: readonly number[];

  constructor(segments: readonly Uint8Array[], dtype: DType, width: number) {
    this.segments = segments;
    this.dtype = dtype;
    this.width = width;
    const starts = [0];
    for (const s of segments) starts.push(starts[starts.length - 1] + s.byteLength / width);
    this.starts = starts;
  }

  get size(): number {
    return this.starts[this.starts.length - 1];
  }

  /** body(segment, its bytes of the range, byte offset of these in the range) for each segment that [begin, end) touches. */
  each(begin: number, end: number, body: (segment: number, bytes: Uint8Array, at: number) => void): void {
    const { starts, width } = this;
    let s = 0;
    if (starts.length > 16) {
      let high = starts.length - 2;
      while (s < high) {
        const middle = (s + high) >> 1;
        if (starts[middle + 1] <= begin) s = middle + 1;
        else high = middle;
      }
    }
    for (; s < this.segments.length && starts[s] < end; s++) {
      const from = Math.max(begin, starts[s]);
      const to = Math.min(end, starts[s + 1]);
      if (from >= to) continue;
      body(s, this.segments[s].subarray((from - starts[s]) * width, (to - starts[s]) * width), (from - begin) * width);
    }
  }

  /** Copies elements [begin, end) out, each segment multiplied by its ratio. */
  read(begin: number, end: number, into: Uint8Array, ratios: Float64Array | null, math: CommMath): void {
    this.each(begin, end, (s, bytes, at) => {
      const part = into.subarray(at, at + bytes.length);
      if (ratios && ratios[s] !== 1) math.rescale(part, bytes, this.dtype, ratios[s]);
      else part.set(bytes);
    });
  }

  write(begin: number, end: number, from: Uint8Array): void {
    this.each(begin, end, (_, bytes, at) => {
      bytes.set(from.subarray(at, at + bytes.length));
    });
  }

  /** The bytes of [begin, end) in place, when they lie in one segment and need no factor; else null. */
  direct(begin: number, end: number, ratios: Float64Array | null): Uint8Array | null {
    let found: Uint8Array | null = null;
    let touched = 0;
    this.each(begin, end, (s, bytes) => {
      touched++;
      found = ratios && ratios[s] !== 1 ? null : bytes;
    });
    return touched === 1 ? found : null;
  }

  /** Multiplies bytes that hold elements [begin, end) by their segments' ratios, in place or in a copy. */
  rescaled(begin: number, end: number, bytes: Uint8Array, ratios: Float64Array | null, math: CommMath): Uint8Array {
    if (!ratios) return bytes;
    let out = bytes;
    this.each(begin, end, (s, own, at) => {
      if (ratios[s] === 1) return;
      if (out === bytes) out = Uint8Array.from(bytes);
      const part = out.subarray(at, at + own.length);
      math.rescale(part, part, this.dtype, ratios[s]);
    });
    return out;
  }
}
