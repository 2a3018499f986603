// The arithmetic of collectives in TypeScript: slow, obvious, and what the native code is tested against.
import { type DType, decodeBf16, decodeF16, decodeFp8, encodeBf16, encodeF16, encodeFp8 } from 'fp8-core';
import type { CommMath, ReduceOp } from './math.ts';

/** An aligned copy if need be: received payloads start at any byte. */
function aligned(bytes: Uint8Array, width: number): Uint8Array {
  return bytes.byteOffset % width === 0 ? bytes : new Uint8Array(bytes);
}

const asFloats = (b: Uint8Array) => new Float32Array(b.buffer, b.byteOffset, b.byteLength / 4);
const asWords = (b: Uint8Array) => new Uint16Array(b.buffer, b.byteOffset, b.byteLength / 2);
const bytesOf = (a: ArrayBufferView) => new Uint8Array(a.buffer, a.byteOffset, a.byteLength);

/** The stored values as f32, without any scale. */
export function decode(bytes: Uint8Array, dtype: DType): Float32Array {
  switch (dtype) {
    case 'f32':
      return asFloats(aligned(bytes, 4)).slice();
    case 'bf16':
      return decodeBf16(asWords(aligned(bytes, 2)));
    case 'f16':
      return decodeF16(asWords(aligned(bytes, 2)));
    case 'e4m3':
    case 'e5m2':
      return decodeFp8(bytes, dtype);
    default:
      throw new TypeError(`communication: ${dtype} is no dtype to calculate with`);
  }
}

export function encode(values: Float32Array, dtype: DType): Uint8Array {
  switch (dtype) {
    case 'f32':
      return bytesOf(values);
    case 'bf16':
      return bytesOf(encodeBf16(values));
    case 'f16':
      return bytesOf(encodeF16(values, { saturate: true }));
    case 'e4m3':
    case 'e5m2':
      return encodeFp8(values, dtype);
    default:
      throw new TypeError(`communication: ${dtype} is no dtype to calculate with`);
  }
}

/** NaN wins, so that a broken value on one rank is seen on all. */
const pickers: Record<ReduceOp, (a: number, b: number) => number> = {
  sum: (a, b) => a + b,
  max: (a, b) => (a > b || Number.isNaN(a) ? a : b),
  min: (a, b) => (a < b || Number.isNaN(a) ? a : b),
};

function reduceIntegers(dst: Uint8Array, parts: readonly Uint8Array[], op: ReduceOp): void {
  const views = parts.map((p) => aligned(p, 4)).map((p) => new Int32Array(p.buffer, p.byteOffset, p.length / 4));
  const sum = views[0].slice();
  for (const part of views.slice(1)) {
    for (let i = 0; i < sum.length; i++) sum[i] = pickers[op](sum[i], part[i]);
  }
  dst.set(bytesOf(sum));
}

export const plainMath: CommMath = {
  reduce(dst, parts, dtype, op, scale, steps) {
    if (dtype === 'i32') return reduceIntegers(dst, parts, op);
    const pick = pickers[op];
    let sum = decode(parts[0], dtype);
    for (const bytes of parts.slice(1)) {
      const part = decode(bytes, dtype);
      for (let i = 0; i < sum.length; i++) sum[i] = pick(sum[i], part[i]);
      if (steps) sum = decode(encode(sum, dtype), dtype);
    }
    if (scale !== 1) for (let i = 0; i < sum.length; i++) sum[i] *= Math.fround(scale);
    dst.set(encode(sum, dtype));
  },
  rescale(dst, src, dtype, ratio) {
    const values = decode(src, dtype);
    for (let i = 0; i < values.length; i++) values[i] *= Math.fround(ratio);
    dst.set(encode(values, dtype));
  },
};
