import { describe, expect, it } from 'vitest';
import {
  decodeBf16,
  decodeF16,
  decodeFp8,
  encodeBf16,
  encodeF16,
  encodeF16Stochastic,
  encodeFp8,
  scaleFor,
} from './codec.ts';
import type { Fp8DType } from './dtype.ts';

/** One narrow format described by its definition alone: what the oracle is made from. */
interface Format {
  name: string;
  exponent: number;
  mantissa: number;
  bias: number;
  /** Code of the largest finite value. */
  max: number;
  encode(values: Float32Array, saturate: boolean): Uint8Array | Uint16Array;
  decode(codes: number[]): Float32Array;
}

const fp8 = (name: Fp8DType, exponent: number, mantissa: number, bias: number, max: number): Format => ({
  name,
  exponent,
  mantissa,
  bias,
  max,
  encode: (values, saturate) => encodeFp8(values, name, { saturate }),
  decode: (codes) => decodeFp8(Uint8Array.from(codes), name),
});

const formats: Format[] = [
  fp8('e4m3', 4, 3, 7, 0x7e),
  fp8('e5m2', 5, 2, 15, 0x7b),
  {
    name: 'f16',
    exponent: 5,
    mantissa: 10,
    bias: 15,
    max: 0x7bff,
    encode: (values, saturate) => encodeF16(values, { saturate }),
    decode: (codes) => decodeF16(Uint16Array.from(codes)),
  },
  {
    name: 'bf16',
    exponent: 8,
    mantissa: 7,
    bias: 127,
    max: 0x7f7f,
    encode: (values) => encodeBf16(values),
    decode: (codes) => decodeBf16(Uint16Array.from(codes)),
  },
];

const codesOf = (f: Format) => Array.from({ length: f.max + 1 }, (_, i) => i);

/** The value of a finite code without sign, from the format's definition. */
function valueOf(f: Format, code: number): number {
  const exponent = Math.floor(code / 2 ** f.mantissa);
  const fraction = (code % 2 ** f.mantissa) / 2 ** f.mantissa;
  return exponent === 0 ? fraction * 2 ** (1 - f.bias) : (1 + fraction) * 2 ** (exponent - f.bias);
}

/** Correct rounding by search over all values in float64: the nearer neighbour, the even code at a tie. */
function oracle(values: number[], x: number): number {
  let low = 0;
  let high = values.length; // values[max + 1] stands one step beyond the range: who rounds there has overflown
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (values[middle] <= x) low = middle;
    else high = middle;
  }
  const below = values[low];
  const above = low + 1 < values.length ? values[low + 1] : Number.POSITIVE_INFINITY;
  if (x - below < above - x) return low;
  if (x - below > above - x) return low + 1;
  return low % 2 === 0 ? low : low + 1;
}

/** Float32 bit patterns (without sign) worth trying: a stride through all, and all near a boundary of the format. */
function patterns(f: Format): Uint32Array {
  const bits: number[] = [];
  for (let u = 0; u <= 0x7f800000; u += 104_729) bits.push(u);
  const pun = new Float32Array(1);
  const punBits = new Uint32Array(pun.buffer);
  const stride = f.mantissa > 3 ? 7 : 1;
  for (let code = 0; code <= f.max; code += stride) {
    const a = valueOf(f, code);
    const b = valueOf(f, code + 1);
    for (const x of [a, (a + b) / 2]) {
      pun[0] = x;
      for (let d = -2; d <= 2; d++) bits.push(Math.min(0x7f800000, Math.max(0, punBits[0] + d)));
    }
  }
  for (let code = f.max - 3; code <= f.max; code++) {
    pun[0] = (valueOf(f, code) + valueOf(f, code + 1)) / 2;
    for (let d = -2; d <= 2; d++) bits.push(Math.min(0x7f800000, punBits[0] + d));
  }
  return Uint32Array.from(bits);
}

describe.each(formats)('$name', (f) => {
  const values = [...codesOf(f), f.max + 1].map((code) => valueOf(f, code));
  const signBit = 2 ** (f.exponent + f.mantissa);

  it('decodes every finite code to the value of its definition', () => {
    const codes = codesOf(f);
    expect(Array.from(f.decode(codes))).toEqual(values.slice(0, -1));
    expect(Array.from(f.decode(codes.map((c) => c + signBit)))).toEqual(values.slice(0, -1).map((v) => -v));
  });

  it('rounds to nearest even at every boundary and on a stride through all floats, both signs', () => {
    const bits = patterns(f);
    const positive = new Float32Array(bits.buffer);
    const negative = new Float32Array(Uint32Array.from(bits, (u) => u + 0x80000000).buffer);
    const saturating = f.encode(positive, true);
    const overflowing = f.encode(positive, false);
    const mirrored = f.encode(negative, true);
    const infinity = f.max + 1; // e4m3: its NaN
    const wrong: string[] = [];
    for (let i = 0; i < positive.length; i++) {
      const code = oracle(values, positive[i]);
      const saturated = f.name === 'bf16' ? Math.min(code, infinity) : Math.min(code, f.max);
      const expected = [saturated, Math.min(code, infinity), saturated + signBit];
      const got = [saturating[i], overflowing[i], mirrored[i]];
      if (got.join() !== expected.join()) wrong.push(`${positive[i]}: got ${got}, expected ${expected}`);
    }
    expect(wrong.slice(0, 3)).toEqual([]);
    expect(positive.length).toBeGreaterThan(20_000);
  });

  it('returns every code through decode and encode', () => {
    const codes = codesOf(f).flatMap((c) => [c, c + signBit]);
    expect(Array.from(f.encode(f.decode(codes), true))).toEqual(codes);
  });

  it('keeps NaN and its sign', () => {
    const x = new Float32Array(Uint32Array.from([0x7fc00000, 0xffc00000, 0x7f800001, 0xff800001]).buffer);
    const codes = f.encode(x, true);
    expect(Array.from(f.decode(Array.from(codes))).every(Number.isNaN)).toBe(true);
    expect(Array.from(codes, (c) => c >= signBit)).toEqual([false, true, false, true]);
    if (signBit === 0x80) expect(Array.from(codes)).toEqual([0x7f, 0xff, 0x7f, 0xff]);
  });
});

describe('fp8', () => {
  it('saturates by default, and overflows as the formats say when told not to', () => {
    const x = new Float32Array([1e6, -1e6, Number.POSITIVE_INFINITY, 464, 464.1]);
    expect(Array.from(decodeFp8(encodeFp8(x, 'e4m3'), 'e4m3'))).toEqual([448, -448, 448, 448, 448]);
    expect(Array.from(decodeFp8(encodeFp8(x, 'e4m3', { saturate: false }), 'e4m3'))).toEqual([
      Number.NaN,
      Number.NaN,
      Number.NaN,
      448,
      Number.NaN,
    ]);
    expect(Array.from(decodeFp8(encodeFp8(x, 'e5m2', { saturate: false }), 'e5m2')).slice(0, 3)).toEqual([
      Number.POSITIVE_INFINITY,
      Number.NEGATIVE_INFINITY,
      Number.POSITIVE_INFINITY,
    ]);
  });

  it('encodes a part of a larger buffer', () => {
    const buffer = new Float32Array([9, 1, 2, 9]);
    expect(Array.from(decodeFp8(encodeFp8(buffer.subarray(1, 3), 'e4m3'), 'e4m3'))).toEqual([1, 2]);
  });

  it.each(['e4m3', 'e5m2'] as const)(
    '%s: stochastic rounding hits only the neighbours, with the right mean',
    (dtype) => {
      const n = 40_000;
      for (const x of [1.03, 0.0012, 300.7, 2 ** -10 * 1.3]) {
        const mean = (values: Float32Array) => values.reduce((a, b) => a + b, 0) / n;
        const codes = encodeFp8(new Float32Array(n).fill(x), dtype, { rounding: 'stochastic', seed: 7 });
        const neighbours = Array.from(new Set(decodeFp8(codes, dtype))).sort((a, b) => a - b);
        expect(neighbours.length).toBe(2);
        const step = neighbours[1] - neighbours[0];
        // A mean of n draws from two values `step` apart strays by at most step / (2 sqrt(n)) a sigma; 5 sigma.
        expect(Math.abs(mean(decodeFp8(codes, dtype)) - x)).toBeLessThan((5 * step) / (2 * Math.sqrt(n)));
      }
    },
  );

  it('rounds stochastically by seed and index only, and leaves representable values alone', () => {
    const x = new Float32Array(64).map((_, i) => 1 + i / 100);
    const whole = encodeFp8(x, 'e4m3', { rounding: 'stochastic', seed: 3 });
    expect(encodeFp8(x.subarray(0, 13), 'e4m3', { rounding: 'stochastic', seed: 3 })).toEqual(whole.subarray(0, 13));
    expect(encodeFp8(x, 'e4m3', { rounding: 'stochastic', seed: 2 ** 40 + 3 })).not.toEqual(whole);
    const exact = decodeFp8(
      Uint8Array.from({ length: 127 }, (_, i) => i),
      'e4m3',
    );
    expect(encodeFp8(exact, 'e4m3', { rounding: 'stochastic', seed: 9 })).toEqual(encodeFp8(exact, 'e4m3'));
    const half = decodeF16(Uint16Array.from({ length: 0x7c00 }, (_, i) => i));
    expect(encodeF16Stochastic(half, 9)).toEqual(encodeF16(half));
  });

  it('names the wrong argument', () => {
    const x = new Float32Array(1);
    expect(() => encodeFp8([1] as never, 'e4m3')).toThrow(
      new TypeError('encodeFp8: values is a Array; expected a Float32Array'),
    );
    expect(() => encodeFp8(x, 'e3m4' as never)).toThrow(
      new TypeError('encodeFp8: dtype is "e3m4"; expected e4m3 or e5m2'),
    );
    expect(() => decodeFp8(x as never, 'e4m3')).toThrow(TypeError);
    expect(() => decodeFp8(new Uint8Array(1), undefined as never)).toThrow('dtype is undefined');
    expect(() => encodeFp8(x, 'e4m3', { rounding: 'up' as never })).toThrow('rounding is "up"');
    expect(() => encodeFp8(x, 'e4m3', { saturate: 1 as never })).toThrow('saturate is 1');
    expect(() => encodeFp8(x, 'e4m3', { rounding: 'stochastic', seed: 0.5 })).toThrow('seed is 0.5');
  });
});

describe('scaleFor', () => {
  const pun = new Float32Array(1);
  const punBits = new Uint32Array(pun.buffer);
  const scaleBits = (x: number): number => {
    pun[0] = x;
    return punBits[0];
  };

  it.each([448, 57344, 65504])('max %d: the largest power of two that keeps amax in range', (max) => {
    for (let u = 1; u < 0x7f800000; u += 99_991) {
      punBits[0] = u;
      const amax = pun[0];
      const s = scaleFor(amax, max, 1);
      expect(scaleBits(s) & 0x7fffff).toBe(0);
      if (s > 2 ** -126) expect(amax * s).toBeLessThanOrEqual(max);
      if (s < 2 ** 126) expect(amax * s * 2).toBeGreaterThan(max);
    }
  });

  it('is exact at amax = max * 2^k, one step on either side', () => {
    for (const max of [448, 57344, 65504]) {
      for (let k = -100; k < 100; k++) {
        pun[0] = max * 2 ** k;
        const bits = punBits[0];
        expect(scaleFor(pun[0], max, 1)).toBe(2 ** -k);
        punBits[0] = bits + 1;
        expect(scaleFor(pun[0], max, 1)).toBe(2 ** (-k - 1));
        punBits[0] = bits - 1;
        expect(scaleFor(pun[0], max, 1)).toBe(2 ** -k);
      }
    }
  });

  it('keeps the previous scale for an amax of zero, infinity or NaN, and stays finite at the ends', () => {
    for (const amax of [0, Number.POSITIVE_INFINITY, Number.NaN, -1]) expect(scaleFor(amax, 448, 0.25)).toBe(0.25);
    expect(scaleFor(2 ** -149, 448, 1)).toBe(2 ** 126);
    expect(scaleFor(3.4e38, 448, 1)).toBe(2 ** -120);
  });
});
