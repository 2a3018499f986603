// Between the bytes of a tensor and float32 values: loads decode a copy, stores encode; here alone the reference backend
// knows about formats and scales.
import {
  decodeBf16,
  decodeF16,
  decodeFp8,
  encodeBf16,
  encodeF16,
  encodeF16Stochastic,
  encodeFp8Into,
  encodeFp8Stochastic,
  scaleFor,
} from '../../codec.ts';
import { dtypes, scaleSlot, windowSlot } from '../../dtype.ts';
import { bytesOf, type Cell } from '../host.ts';

const f = Math.fround;

export const f32Of = (cell: Cell): Float32Array => new Float32Array(bytesOf(cell).buffer, cell.offset, cell.size);
export const i32Of = (cell: Cell): Int32Array => new Int32Array(bytesOf(cell).buffer, cell.offset, cell.size);
const u16Of = (cell: Cell): Uint16Array => new Uint16Array(bytesOf(cell).buffer, cell.offset, cell.size);

/** The first n stored values as float32, without the scale; a copy. */
export function loadStored(cell: Cell, n: number): Float32Array {
  switch (cell.dtype) {
    case 'f32':
      return f32Of(cell).slice(0, n);
    case 'bf16':
      return decodeBf16(u16Of(cell).subarray(0, n));
    case 'f16':
      return decodeF16(u16Of(cell).subarray(0, n));
    case 'e4m3':
    case 'e5m2':
      return decodeFp8(bytesOf(cell).subarray(0, n), cell.dtype);
    default:
      throw new Error(`internal: ${cell.dtype} holds no floats`);
  }
}

/** The first n values: stored value * scaleInv, in float32; a copy. */
export function load(cell: Cell, n: number): Float32Array {
  const x = loadStored(cell, n);
  const scaleInv = cell.scale ? cell.scale[scaleSlot.scaleInv] : 1;
  if (scaleInv !== 1) for (let i = 0; i < n; i++) x[i] *= scaleInv;
  return x;
}

/** max |x|; +inf if any is NaN. */
export function amaxOf(x: Float32Array): number {
  let a = 0;
  for (const v of x) {
    if (Number.isNaN(v)) return Number.POSITIVE_INFINITY;
    const abs = Math.abs(v);
    if (abs > a) a = abs;
  }
  return a;
}

/** Stores without a scale: f32 as is, bf16 to nearest even. */
export function storePlain(cell: Cell, x: Float32Array): void {
  if (cell.dtype === 'f32') f32Of(cell).set(x);
  else if (cell.dtype === 'bf16') u16Of(cell).set(encodeBf16(x));
  else throw new Error(`internal: ${cell.dtype} is stored with a scale`);
}

/**
 * Stores x * scale, saturating, and writes the whole scale block.
 * @param random 0 rounds to nearest even, anything else keys stochastic rounding
 */
export function storeScaled(cell: Cell, x: Float32Array, scale: number, amax: number, random: number): void {
  const { dtype } = cell;
  const { max } = dtypes[dtype];
  const scaled = new Float32Array(x.length);
  let saturated = 0;
  for (let i = 0; i < x.length; i++) {
    scaled[i] = x[i] * scale;
    if (Math.abs(scaled[i]) > max) saturated++;
  }
  if (dtype === 'e4m3' || dtype === 'e5m2') {
    const codes = bytesOf(cell).subarray(0, x.length);
    if (random === 0) encodeFp8Into(codes, scaled, dtype);
    else encodeFp8Stochastic(codes, scaled, dtype, random);
  } else {
    u16Of(cell).set(random === 0 ? encodeF16(scaled, { saturate: true }) : encodeF16Stochastic(scaled, random));
  }
  cell.scale?.set([scale, f(1 / scale), amax, saturated]);
}

/** The scale that a tensor's next just-in-time cast falls back to: its present one, or 1. */
export function previousScale(cell: Cell): number {
  const s = cell.scale ? cell.scale[scaleSlot.scale] : 1;
  return s > 0 && Number.isFinite(s) ? s : 1;
}

/** Just in time: the scale from the exact amax of the values. @param ofWhole the amax to go by, of the tensor that x is a shard of */
export function storeJustInTime(
  cell: Cell,
  x: Float32Array,
  mu = 1,
  random = 0,
  known: number | null = null,
  ofWhole: number | null = null,
): void {
  const a = ofWhole ?? amaxOf(x);
  storeScaled(cell, x, f(scaleFor(known ?? a, dtypes[cell.dtype].max, previousScale(cell)) * mu), a, random);
}

/**
 * The cast of `quantize` and of every kernel that writes FP8. With a window the amax is recorded in it, and its scale is used
 * once it has seen 16 steps (delayed scaling); until then, and without a window, the scale is just in time.
 */
export function storeQuantized(
  cell: Cell,
  x: Float32Array,
  window: Cell | null,
  mu = 1,
  random = 0,
  known: number | null = null,
): void {
  if (!window) return storeJustInTime(cell, x, mu, random, known);
  const a = amaxOf(x);
  const w = f32Of(window);
  if (a > w[windowSlot.amax]) w[windowSlot.amax] = a;
  let s = w[windowSlot.scale];
  if (w[windowSlot.count] < windowSlot.length) s = scaleFor(known ?? a, dtypes[cell.dtype].max, s > 0 ? s : 1);
  storeScaled(cell, x, f(s * mu), a, random);
}

/** Stores activations: plain in f32 and bf16, quantised in FP8. */
export function storeActivations(cell: Cell, x: Float32Array, window: Cell | null): void {
  if (cell.scale) storeQuantized(cell, x, window);
  else storePlain(cell, x);
}
