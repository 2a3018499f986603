// What a caller hands to a collective, and how the comm worker gets at its bytes: a tensor of the CPU backend by its handle, in
// place; anything else through shared memory, copied in before and out after.
import { type DType, dtypes, Tensor } from 'fp8-core';
import type { LaneRegion } from './math/native.ts';
import type { Region } from './worker/messages.ts';

/** Plain memory with a dtype, for use without tensors: `scale` as in stored = value * scale. */
export interface Packed {
  dtype: DType;
  data: Uint8Array | Uint16Array;
  scale?: number;
}

/** A tensor of any backend, a typed array, or packed bytes with a dtype. */
export type Operand = Tensor | Float32Array | Int32Array | Packed;

const bytesOf = (a: ArrayBufferView): Uint8Array => new Uint8Array(a.buffer, a.byteOffset, a.byteLength);

/** One operand on its way through a collective. */
export interface Staged<R = Region> {
  dtype: DType;
  size: number;
  region: R;
  /** The scale as the owner has it; 1 for unscaled dtypes. */
  scale: number;
  /** After the collective: copies the bytes back where need be, stores the new scale, lets the tensor go. */
  finish(scale: number, written: boolean): void;
  /** After a failure: lets the tensor go. */
  drop(): void;
}

export const dtypeOf = (x: Operand): DType =>
  x instanceof Float32Array ? 'f32' : x instanceof Int32Array ? 'i32' : x.dtype;

export const sizeOf = (x: Operand): number =>
  x instanceof Tensor
    ? x.size
    : x instanceof Float32Array || x instanceof Int32Array
      ? x.length
      : x.data.byteLength / dtypes[x.dtype].bytes;

function copied(bytes: number): { region: Region; memory: Uint8Array } {
  const sab = new SharedArrayBuffer(bytes);
  return { region: { sab, offset: 0, bytes }, memory: new Uint8Array(sab) };
}

/** @param native the worker can reach tensors of the CPU backend by handle */
export function stage(x: Operand, native: boolean): Staged {
  return x instanceof Tensor ? stageTensor(x, native) : stagePlain(x);
}

/** The same for the lane, which reads any memory of this process in place. */
export function stageForLane(x: Operand): Staged<LaneRegion> {
  if (x instanceof Tensor) {
    const staged = stageTensor(x, true);
    const { region } = staged;
    return typeof region === 'number' ? (staged as Staged<number>) : { ...staged, region: new Uint8Array(region.sab) };
  }
  const dtype = dtypeOf(x);
  const packed = x instanceof Float32Array || x instanceof Int32Array ? null : x;
  return {
    dtype,
    size: sizeOf(x),
    region: packed ? packed.data : (x as Float32Array | Int32Array),
    scale: packed?.scale ?? 1,
    finish(scale, written) {
      if (written && packed && dtypes[dtype].scaled) packed.scale = scale;
    },
    drop() {},
  };
}

function stageTensor(x: Tensor, native: boolean): Staged {
  const { dtype, size, backend, handle } = x;
  const { scaled } = dtypes[dtype];
  x.retain();
  backend.synchronize();
  const scale = scaled ? backend.readScale(handle)[0] : 1;
  const inPlace = native && backend.name === 'cpu';
  const { region, memory } = inPlace ? { region: handle, memory: null } : copied(x.numBytes);
  if (memory) {
    const bytes = new Uint8Array(x.numBytes);
    backend.read(handle, bytes);
    memory.set(bytes);
  }
  return {
    dtype,
    size,
    region,
    scale,
    finish(newScale, written) {
      if (written && memory) backend.write(handle, Uint8Array.from(memory));
      if (written && scaled && newScale !== scale) {
        const block = backend.readScale(handle);
        block[0] = newScale;
        block[1] = 1 / newScale;
        backend.writeScale(handle, block);
      }
      x.release();
    },
    drop: () => x.release(),
  };
}

function stagePlain(x: Exclude<Operand, Tensor>): Staged {
  const dtype = dtypeOf(x);
  const packed = x instanceof Float32Array || x instanceof Int32Array ? null : x;
  const data = packed ? packed.data : (x as Float32Array | Int32Array);
  const bytes = bytesOf(data);
  const shared = data.buffer instanceof SharedArrayBuffer;
  const { region, memory } = shared
    ? {
        region: { sab: data.buffer as SharedArrayBuffer, offset: data.byteOffset, bytes: data.byteLength },
        memory: null,
      }
    : copied(bytes.length);
  memory?.set(bytes);
  return {
    dtype,
    size: sizeOf(x),
    region,
    scale: packed?.scale ?? 1,
    finish(scale, written) {
      if (!written) return;
      if (memory) bytes.set(memory);
      if (packed && dtypes[dtype].scaled) packed.scale = scale;
    },
    drop() {},
  };
}
