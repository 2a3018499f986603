// Memory of the two TypeScript backends: blocks in JavaScript buffers (or, for the null backend, only their sizes), named by
// handles. A handle is slot + 2^20 * generation; the generation of a slot grows when it is freed, so an old handle is known
// to be old. A view shares its base's block and keeps it alive.
import type { BackendMemory } from '../backend.ts';
import { type DType, dtypes, scaleSlot } from '../dtype.ts';

const slots = 2 ** 20;

interface Block {
  /** Null in the null backend. */
  readonly buffer: ArrayBuffer | null;
  readonly scale: Float32Array | null;
  readonly numBytes: number;
  refs: number;
}

/** What a kernel of a TypeScript backend sees of a tensor. */
export interface Cell {
  readonly dtype: DType;
  readonly size: number;
  /** Offset into the block, in bytes. */
  readonly offset: number;
  readonly block: Block;
  /** [scale, scaleInv, amax, saturated], shared with views; null for dtypes without a scale. */
  readonly scale: Float32Array | null;
}

export class HostMemory {
  private readonly cells: (Cell | null)[] = [];
  private readonly generations: number[] = [];
  private readonly freeSlots: number[] = [];
  private live = 0;
  private peak = 0;
  private readonly keepsBytes: boolean;

  constructor(keepsBytes: boolean) {
    this.keepsBytes = keepsBytes;
  }

  alloc(dtype: DType, size: number): number {
    const info = dtypes[dtype];
    if (!info)
      throw new TypeError(
        `alloc: no dtype ${JSON.stringify(dtype)}; expected one of ${Object.keys(dtypes).join(', ')}`,
      );
    if (!Number.isSafeInteger(size) || size < 0) {
      throw new RangeError(`alloc: size is ${size}; expected a whole, non-negative number of elements`);
    }
    const numBytes = size * info.bytes;
    const buffer = this.keepsBytes ? new ArrayBuffer(numBytes) : null;
    // All ones is NaN in every float format: who reads before writing sees it.
    if (buffer) new Uint8Array(buffer).fill(0xff);
    const scale = info.scaled ? Float32Array.of(1, 1, 0, 0) : null;
    this.live += numBytes;
    if (this.live > this.peak) this.peak = this.live;
    return this.add({ dtype, size, offset: 0, block: { buffer, scale, numBytes, refs: 1 }, scale });
  }

  view(handle: number, offset: number, size: number): number {
    const base = this.get(handle, 'view');
    if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(size)) {
      throw new RangeError(`view: elements [${offset}, ${offset} + ${size}); expected whole numbers`);
    }
    if (offset < 0 || size < 0 || offset + size > base.size) {
      throw new RangeError(`view: elements [${offset}, ${offset + size}) of ${base.dtype}[${base.size}]`);
    }
    base.block.refs++;
    return this.add({ ...base, size, offset: base.offset + offset * dtypes[base.dtype].bytes });
  }

  free(handle: number): void {
    const { block } = this.get(handle, 'free');
    const slot = handle % slots;
    this.cells[slot] = null;
    this.generations[slot]++;
    this.freeSlots.push(slot);
    if (--block.refs === 0) this.live -= block.numBytes;
  }

  /** @throws RangeError if the handle was freed or never given; `what` begins the message. */
  get(handle: number, what: string): Cell {
    const slot = handle % slots;
    const cell = this.cells[slot];
    if (!cell || handle !== slot + slots * this.generations[slot]) {
      throw new RangeError(`${what}: no tensor has handle ${handle}; was it freed?`);
    }
    return cell;
  }

  write(handle: number, from: Uint8Array): void {
    const cell = this.get(handle, 'write');
    checkBytes('write', cell, from);
    if (cell.block.buffer) bytesOf(cell).set(from);
  }

  read(handle: number, into: Uint8Array): void {
    const cell = this.get(handle, 'read');
    checkBytes('read', cell, into);
    if (cell.block.buffer) into.set(bytesOf(cell));
    else into.fill(0);
  }

  copy(to: number, from: number): void {
    const a = this.get(to, 'copy: to');
    const b = this.get(from, 'copy: from');
    if (a.dtype !== b.dtype || a.size !== b.size) {
      throw new RangeError(`copy: to is ${a.dtype}[${a.size}] but from is ${b.dtype}[${b.size}]; they must match`);
    }
    if (a.block.buffer) bytesOf(a).set(bytesOf(b));
    if (a.scale && b.scale) a.scale.set(b.scale);
  }

  readScale(handle: number): Float32Array {
    return scaleOf(this.get(handle, 'readScale'), 'readScale').slice();
  }

  writeScale(handle: number, block: Float32Array): void {
    const scale = scaleOf(this.get(handle, 'writeScale'), 'writeScale');
    if (block.length !== scaleSlot.size) {
      throw new RangeError(`writeScale: ${block.length} numbers; a scale block has ${scaleSlot.size}`);
    }
    scale.set(block);
  }

  memory(): BackendMemory {
    return { live: this.live, peak: this.peak, reserved: this.keepsBytes ? this.live : 0 };
  }

  resetPeak(): void {
    this.peak = this.live;
  }

  private add(cell: Cell): number {
    let slot = this.freeSlots.pop();
    if (slot === undefined) {
      slot = this.cells.length;
      if (slot === slots) throw new RangeError(`alloc: ${slots} tensors are live; is a scope missing?`);
      this.generations.push(0);
      this.cells.push(null);
    }
    this.cells[slot] = cell;
    return slot + slots * this.generations[slot];
  }
}

/** The bytes of a cell, in place. */
export function bytesOf(cell: Cell): Uint8Array {
  if (!cell.block.buffer) throw new Error('internal: the null backend has no bytes');
  return new Uint8Array(cell.block.buffer, cell.offset, cell.size * dtypes[cell.dtype].bytes);
}

function checkBytes(what: string, cell: Cell, bytes: Uint8Array): void {
  const expected = cell.size * dtypes[cell.dtype].bytes;
  if (bytes.byteLength !== expected) {
    throw new RangeError(`${what}: ${bytes.byteLength} bytes, but ${cell.dtype}[${cell.size}] has ${expected}`);
  }
}

function scaleOf(cell: Cell, what: string): Float32Array {
  if (!cell.scale) throw new TypeError(`${what}: ${cell.dtype} tensors carry no scale block`);
  return cell.scale;
}
