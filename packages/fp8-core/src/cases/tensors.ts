// Tensors from plain values and back, in the stored formats, without going through any kernel.
import type { Backend } from '../backend.ts';
import { decodeBf16, decodeF16, decodeFp8, encodeBf16, encodeF16, encodeFp8 } from '../codec.ts';
import { type DType, dtypes, scaleSlot } from '../dtype.ts';
import { empty, type Tensor } from '../tensor.ts';

/** The stored bytes of values (already multiplied by their scale) in a dtype. */
export function encodeValues(dtype: DType, values: ArrayLike<number>): Uint8Array {
  const x = Float32Array.from(values);
  const bytes = (a: Float32Array | Int32Array | Uint16Array | Uint8Array): Uint8Array =>
    new Uint8Array(a.buffer, a.byteOffset, a.byteLength);
  switch (dtype) {
    case 'f32':
      return bytes(x);
    case 'bf16':
      return bytes(encodeBf16(x));
    case 'f16':
      return bytes(encodeF16(x));
    case 'e4m3':
    case 'e5m2':
      return encodeFp8(x, dtype);
    case 'i32':
      return bytes(Int32Array.from(values));
    case 'u16':
      return bytes(Uint16Array.from(values));
    case 'u8':
      return Uint8Array.from(values);
  }
}

/** Stored values of bytes in a dtype, without a scale. */
export function decodeValues(dtype: DType, bytes: Uint8Array): Float32Array {
  const copy = bytes.slice().buffer;
  switch (dtype) {
    case 'f32':
      return new Float32Array(copy);
    case 'bf16':
      return decodeBf16(new Uint16Array(copy));
    case 'f16':
      return decodeF16(new Uint16Array(copy));
    case 'e4m3':
    case 'e5m2':
      return decodeFp8(new Uint8Array(copy), dtype);
    case 'i32':
      return Float32Array.from(new Int32Array(copy));
    case 'u16':
      return Float32Array.from(new Uint16Array(copy));
    case 'u8':
      return Float32Array.from(new Uint8Array(copy));
  }
}

/** A tensor [size] of values; a scaled dtype stores value * scale and gets the block [scale, 1 / scale, 0, 0]. */
export function tensorFrom(backend: Backend, dtype: DType, values: ArrayLike<number>, scale = 1): Tensor {
  const tensor = empty(backend, [values.length], dtype);
  const stored = scale === 1 ? values : Array.from(values, (v) => v * scale);
  backend.write(tensor.handle, encodeValues(dtype, stored));
  if (dtypes[dtype].scaled) backend.writeScale(tensor.handle, Float32Array.of(scale, 1 / scale, 0, 0));
  return tensor;
}

/** The values of a tensor: stored value * scaleInv. */
export function valuesOf(tensor: Tensor): Float32Array {
  const values = decodeValues(tensor.dtype, rawBytes(tensor));
  if (!dtypes[tensor.dtype].scaled) return values;
  const scaleInv = tensor.backend.readScale(tensor.handle)[scaleSlot.scaleInv];
  return values.map((v) => v * scaleInv);
}

export function rawBytes(tensor: Tensor): Uint8Array {
  const bytes = new Uint8Array(tensor.numBytes);
  tensor.backend.read(tensor.handle, bytes);
  return bytes;
}
