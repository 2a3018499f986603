// Casts between float32 and the narrow floats, bit for bit those of packages/fp8-kernels/native/float8.h.
//
// The idea: rounding to nearest even needs the kept bits, one guard bit and whether anything lies below. An fp8 format keeps
// at most 3 mantissa bits, so the upper 16 bits of a float32 with the lower 16 folded into the last one (sticky) decide the
// code: one table look-up an element, no branches. The tables hold 64 kB each and are made at first use.
// Bits are read through a Uint32Array over the same memory, never through a number: JavaScript does not promise a NaN's sign.
// Formats: Micikevicius et al. 2022 (arXiv:2209.05433), OCP OFP8 v1.0.
import type { Fp8DType } from './dtype.ts';
import { highWord, philox } from './random.ts';

/** Options of `encodeFp8`. */
export interface EncodeOptions {
  /** Values beyond the range become the largest finite value (default), else NaN in e4m3 and infinity in e5m2. */
  saturate?: boolean;
  /** To nearest, ties to even (default), or up or down at random such that the expected value is the input. */
  rounding?: 'nearest' | 'stochastic';
  /** Keys stochastic rounding: the same seed and index give the same bits on every backend. Default 0. */
  seed?: number;
}

interface Fp8Format {
  readonly mantissa: number;
  readonly bias: number;
  /** Codes without sign: of the largest finite value, of an overflow that does not saturate, of NaN. */
  readonly max: number;
  readonly overflow: number;
  readonly nan: number;
}

const formats: Record<Fp8DType, Fp8Format> = {
  e4m3: { mantissa: 3, bias: 7, max: 0x7e, overflow: 0x7f, nan: 0x7f },
  e5m2: { mantissa: 2, bias: 15, max: 0x7b, overflow: 0x7c, nan: 0x7f },
};

const pun = new Float32Array(1);
const punBits = new Uint32Array(pun.buffer);

/** Nearest whole number, ties to even, of 0 <= x < 2^51: the FPU rounds at the last place of 2^52. */
const roundEven = (x: number): number => x + 4503599627370496 - 4503599627370496;

/** The code without sign, perhaps beyond the largest finite one, of a float32 whose bits without sign are `abs`. */
function roundMagnitude(abs: number, mantissa: number, bias: number): number {
  if (abs < (128 - bias) << 23) {
    punBits[0] = abs;
    return roundEven(pun[0] * 2 ** (bias + mantissa - 1)); // below the smallest normal: units of the smallest subnormal
  }
  const shift = 23 - mantissa;
  const odd = (abs >>> shift) & 1;
  return (abs - ((127 - bias) << 23) + (1 << (shift - 1)) - 1 + odd) >>> shift;
}

function roundMagnitudeStochastic(abs: number, mantissa: number, bias: number, random: number): number {
  const shift = 23 - mantissa;
  if (abs < (128 - bias) << 23) {
    punBits[0] = abs;
    const units = pun[0] * 2 ** (bias + mantissa - 1);
    const whole = Math.floor(units);
    return whole + (random >>> 8 < Math.floor((units - whole) * 16777216) ? 1 : 0);
  }
  return (abs - ((127 - bias) << 23) + (random & ((1 << shift) - 1))) >>> shift;
}

/** Code of the float32 with these bits; `random` < 0 rounds to nearest. */
function fp8Code(bits: number, f: Fp8Format, saturate: boolean, random: number): number {
  const sign = (bits >>> 24) & 0x80;
  const abs = bits & 0x7fffffff;
  if (abs > 0x7f800000) return sign | f.nan;
  let code = f.overflow;
  if (abs < 0x7f000000) {
    code =
      random < 0 ? roundMagnitude(abs, f.mantissa, f.bias) : roundMagnitudeStochastic(abs, f.mantissa, f.bias, random);
  }
  return sign | (code > f.max ? (saturate ? f.max : f.overflow) : code);
}

const encodeTables = new Map<string, Uint8Array>();

function encodeTable(dtype: Fp8DType, saturate: boolean): Uint8Array {
  const key = `${dtype} ${saturate}`;
  let table = encodeTables.get(key);
  if (!table) {
    table = new Uint8Array(65536);
    for (let i = 0; i < 65536; i++) table[i] = fp8Code((i << 16) >>> 0, formats[dtype], saturate, -1);
    encodeTables.set(key, table);
  }
  return table;
}

const decodeTables = new Map<Fp8DType, Uint32Array>();

/** Float32 bits of each of the 256 codes. */
function decodeTable(dtype: Fp8DType): Uint32Array {
  let table = decodeTables.get(dtype);
  if (!table) {
    table = new Uint32Array(256);
    for (let code = 0; code < 256; code++) table[code] = decodeBits(code, formats[dtype]);
    decodeTables.set(dtype, table);
  }
  return table;
}

function decodeBits(code: number, f: Fp8Format): number {
  const sign = (code & 0x80) << 24;
  const abs = code & 0x7f;
  if (abs > f.max) return (sign | (abs === f.nan || abs > f.overflow ? 0x7fc00000 : 0x7f800000)) >>> 0;
  const exponent = abs >>> f.mantissa;
  const fraction = abs & ((1 << f.mantissa) - 1);
  pun[0] =
    exponent === 0
      ? fraction * 2 ** (1 - f.bias - f.mantissa)
      : (1 + fraction / (1 << f.mantissa)) * 2 ** (exponent - f.bias);
  return (sign | punBits[0]) >>> 0;
}

const bitsOf = (values: Float32Array): Uint32Array => new Uint32Array(values.buffer, values.byteOffset, values.length);

function checkFp8(what: string, dtype: unknown): void {
  if (dtype !== 'e4m3' && dtype !== 'e5m2')
    throw new TypeError(`${what}: dtype is ${show(dtype)}; expected e4m3 or e5m2`);
}

function checkArray(
  what: string,
  name: string,
  value: unknown,
  type: { new (n: number): unknown; name: string },
): void {
  if (!(value instanceof type)) throw new TypeError(`${what}: ${name} is ${show(value)}; expected a ${type.name}`);
}

/** A value in an error message: its type's name where it is an object, else itself. */
function show(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value);
  return value !== null && typeof value === 'object' ? `a ${value.constructor?.name ?? 'record'}` : String(value);
}

/**
 * Encodes float32 values as FP8, without a scale, rounding once from float32. NaN stays NaN and keeps its sign.
 * @param values any length
 * @returns one byte an element
 * @throws TypeError if an argument has the wrong type
 * @see Micikevicius et al. 2022 (arXiv:2209.05433)
 */
export function encodeFp8(values: Float32Array, dtype: Fp8DType, options: EncodeOptions = {}): Uint8Array {
  checkArray('encodeFp8', 'values', values, Float32Array);
  checkFp8('encodeFp8', dtype);
  const { saturate = true, rounding = 'nearest', seed = 0 } = options;
  if (typeof saturate !== 'boolean')
    throw new TypeError(`encodeFp8: saturate is ${show(saturate)}; expected true or false`);
  if (rounding !== 'nearest' && rounding !== 'stochastic') {
    throw new TypeError(`encodeFp8: rounding is ${show(rounding)}; expected nearest or stochastic`);
  }
  if (!Number.isSafeInteger(seed)) throw new TypeError(`encodeFp8: seed is ${show(seed)}; expected a whole number`);
  const codes = new Uint8Array(values.length);
  if (rounding === 'nearest') encodeFp8Into(codes, values, dtype, saturate);
  else encodeFp8Stochastic(codes, values, dtype, seed, saturate);
  return codes;
}

/** `encodeFp8` to nearest into memory that the caller owns; no checks. */
export function encodeFp8Into(codes: Uint8Array, values: Float32Array, dtype: Fp8DType, saturate = true): void {
  const table = encodeTable(dtype, saturate);
  const bits = bitsOf(values);
  for (let i = 0; i < bits.length; i++) {
    const u = bits[i];
    codes[i] = table[(u >>> 16) | (((u & 0xffff) + 0xffff) >>> 16)];
  }
}

/** Stochastic rounding: element i takes word i & 3 of Philox block i >> 2, so that any backend gives the same bits. */
export function encodeFp8Stochastic(
  codes: Uint8Array,
  values: Float32Array,
  dtype: Fp8DType,
  seed: number,
  saturate = true,
): void {
  const bits = bitsOf(values);
  const words = new Uint32Array(4);
  for (let i = 0; i < bits.length; i++) {
    if ((i & 3) === 0) roundingWords(seed, i, words);
    codes[i] = fp8Code(bits[i], formats[dtype], saturate, words[i & 3]);
  }
}

/** The four random words for elements i .. i + 3 (i a multiple of 4) of a stochastically rounded tensor. */
function roundingWords(seed: number, i: number, words: Uint32Array): void {
  const block = Math.floor(i / 4);
  philox(block >>> 0, highWord(block), 0x5352, 0, seed >>> 0, highWord(seed), words);
}

/**
 * Decodes FP8 bytes, without a scale; every code is exact in float32.
 * @throws TypeError if an argument has the wrong type
 */
export function decodeFp8(bytes: Uint8Array, dtype: Fp8DType): Float32Array {
  checkArray('decodeFp8', 'bytes', bytes, Uint8Array);
  checkFp8('decodeFp8', dtype);
  const table = decodeTable(dtype);
  const bits = new Uint32Array(bytes.length);
  for (let i = 0; i < bytes.length; i++) bits[i] = table[bytes[i]];
  return new Float32Array(bits.buffer);
}

/** Encodes float32 as bfloat16, to nearest even; beyond the range is infinity, as in hardware. */
export function encodeBf16(values: Float32Array): Uint16Array {
  checkArray('encodeBf16', 'values', values, Float32Array);
  const bits = bitsOf(values);
  const codes = new Uint16Array(bits.length);
  for (let i = 0; i < bits.length; i++) {
    const u = bits[i];
    codes[i] = (u & 0x7fffffff) > 0x7f800000 ? (u >>> 16) | 0x40 : (u + 0x7fff + ((u >>> 16) & 1)) >>> 16;
  }
  return codes;
}

/** Decodes bfloat16; exact. */
export function decodeBf16(codes: Uint16Array): Float32Array {
  checkArray('decodeBf16', 'codes', codes, Uint16Array);
  const bits = new Uint32Array(codes.length);
  for (let i = 0; i < codes.length; i++) bits[i] = codes[i] << 16;
  return new Float32Array(bits.buffer);
}

/** Encodes float32 as IEEE half, to nearest even; beyond the range is infinity, or ±65504 with `saturate`. */
export function encodeF16(values: Float32Array, options: { saturate?: boolean } = {}): Uint16Array {
  checkArray('encodeF16', 'values', values, Float32Array);
  const bits = bitsOf(values);
  const codes = new Uint16Array(bits.length);
  const overflow = options.saturate ? 0x7bff : 0x7c00;
  for (let i = 0; i < bits.length; i++) {
    const sign = (bits[i] >>> 16) & 0x8000;
    const abs = bits[i] & 0x7fffffff;
    let code = 0x7e00;
    if (abs <= 0x7f800000) {
      code = abs < 0x7f000000 ? roundMagnitude(abs, 10, 15) : 0x7c00;
      if (code > 0x7bff) code = overflow;
    }
    codes[i] = sign | code;
  }
  return codes;
}

/**
 * Half with stochastic rounding, saturating; the random words are those of `encodeFp8Stochastic`.
 */
export function encodeF16Stochastic(values: Float32Array, seed: number): Uint16Array {
  const bits = bitsOf(values);
  const codes = new Uint16Array(bits.length);
  const words = new Uint32Array(4);
  for (let i = 0; i < bits.length; i++) {
    if ((i & 3) === 0) roundingWords(seed, i, words);
    const sign = (bits[i] >>> 16) & 0x8000;
    const abs = bits[i] & 0x7fffffff;
    let code = 0x7e00;
    if (abs <= 0x7f800000) {
      code = abs < 0x7f000000 ? roundMagnitudeStochastic(abs, 10, 15, words[i & 3]) : 0x7bff;
      if (code > 0x7bff) code = 0x7bff;
    }
    codes[i] = sign | code;
  }
  return codes;
}

/** Decodes IEEE half; exact. */
export function decodeF16(codes: Uint16Array): Float32Array {
  checkArray('decodeF16', 'codes', codes, Uint16Array);
  const values = new Float32Array(codes.length);
  const bits = bitsOf(values);
  for (let i = 0; i < codes.length; i++) {
    const sign = (codes[i] & 0x8000) << 16;
    const abs = codes[i] & 0x7fff;
    if (abs >= 0x7c00) bits[i] = sign | 0x7f800000 | ((abs & 0x3ff) << 13);
    else if (abs >= 0x400) bits[i] = sign | ((abs << 13) + (112 << 23));
    else values[i] = sign ? -(abs * 2 ** -24) : abs * 2 ** -24;
  }
  return values;
}

/**
 * The scale for a tensor whose largest magnitude is `amax`: 2^floor(log2(max / amax)), a power of two in [2^-126, 2^126],
 * computed exactly. A zero or non-finite amax keeps `previous`.
 * @param max largest finite value of the target dtype
 * @see Peng et al. 2023 (arXiv:2310.18313), appendix A.2
 */
export function scaleFor(amax: number, max: number, previous: number): number {
  const a = Math.fround(amax);
  const limit = Math.fround(max);
  if (!(a > 0) || a === Infinity) return previous;
  // 2^floor(log2(limit / a)) is the largest power of two with 2^e * a <= limit, and in float64 that product is exact.
  let e = Math.ceil(Math.log2(limit) - Math.log2(a)) + 1;
  while (a * 2 ** e > limit) e--;
  return 2 ** Math.min(126, Math.max(-126, e));
}
