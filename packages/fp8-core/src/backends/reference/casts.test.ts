import { describe, expect, it } from 'vitest';
import { rawBytes, tensorFrom, valuesOf } from '../../cases/tensors.ts';
import { dtypes, windowSlot } from '../../dtype.ts';
import { normalAt } from '../../random.ts';
import { empty } from '../../tensor.ts';
import { referenceBackend } from '../reference.ts';

const ref = referenceBackend();
const k = ref.kernels;
const normals = (n: number, std = 1, stream = 1) =>
  Float32Array.from({ length: n }, (_, i) => normalAt(1, stream, i) * std);
const window = (count: number, scale: number, amax = 0, history: number[] = []) =>
  tensorFrom(ref, 'f32', [count, scale, amax, ...history, ...new Float32Array(15 - history.length)]);

describe('quantize', () => {
  it.each(['e4m3', 'e5m2', 'f16'] as const)('%s, just in time: uses the range and keeps the precision', (dtype) => {
    const values = normals(333, 0.01);
    const y = empty(ref, [333], dtype);
    k.quantize({ y, x: tensorFrom(ref, 'f32', values), n: 333, random: 0 });
    const amax = Math.max(...values.map(Math.abs));
    const [scale, scaleInv, recorded, saturated] = ref.readScale(y.handle);
    expect(recorded).toBe(amax);
    expect([scale, scaleInv, saturated]).toEqual([2 ** Math.floor(Math.log2(dtypes[dtype].max / amax)), 1 / scale, 0]);
    const relative = { e4m3: 2 ** -4, e5m2: 2 ** -3, f16: 2 ** -11 }[dtype];
    const tiny = { e4m3: 2 ** -10, e5m2: 2 ** -17, f16: 2 ** -25 }[dtype] / scale;
    valuesOf(y).forEach((v, i) => {
      expect(Math.abs(v - values[i])).toBeLessThanOrEqual(Math.max(Math.abs(values[i]) * relative, tiny));
    });
  });

  it('with a warm window uses its scale, clamps and counts what is beyond, and records the amax', () => {
    const y = empty(ref, [5], 'e4m3');
    const w = window(16, 2, 3);
    k.quantize({
      y,
      x: tensorFrom(ref, 'f32', [1, -500, 224, 225, Number.POSITIVE_INFINITY]),
      window: w,
      n: 5,
      random: 0,
    });
    expect(Array.from(valuesOf(y))).toEqual([1, -224, 224, 224, 224]);
    expect(Array.from(ref.readScale(y.handle))).toEqual([2, 0.5, Number.POSITIVE_INFINITY, 3]);
    expect(Array.from(valuesOf(w).slice(0, 3))).toEqual([16, 2, Number.POSITIVE_INFINITY]);
  });

  it('with a cold window is just in time and keeps the larger amax', () => {
    const y = empty(ref, [2], 'e4m3');
    const w = window(15, 2 ** 20, 3);
    k.quantize({ y, x: tensorFrom(ref, 'f32', [1.75, -1]), window: w, n: 2, random: 0 });
    expect(ref.readScale(y.handle)[0]).toBe(256);
    expect(valuesOf(w)[windowSlot.amax]).toBe(3);
  });

  it('multiplies the scale by mu, which may saturate, and falls back to the previous scale at amax 0', () => {
    const y = tensorFrom(ref, 'e5m2', [0, 0, 0], 8);
    k.quantize({ y, x: tensorFrom(ref, 'f32', [0, -0, 0]), mu: tensorFrom(ref, 'f32', [0.5]), n: 3, random: 0 });
    expect(Array.from(ref.readScale(y.handle))).toEqual([4, 0.25, 0, 0]);
    k.quantize({ y, x: tensorFrom(ref, 'f32', [1.75, 1, 0.5]), mu: tensorFrom(ref, 'f32', [3]), n: 3, random: 0 });
    expect(Array.from(ref.readScale(y.handle))).toEqual([32768 * 3, Math.fround(1 / (32768 * 3)), 1.75, 2]);
  });

  it('keeps NaN, and says so in the amax', () => {
    const y = empty(ref, [3], 'e4m3');
    k.quantize({ y, x: tensorFrom(ref, 'f32', [1, Number.NaN, -2]), n: 3, random: 0 });
    expect(Array.from(valuesOf(y))).toEqual([1, Number.NaN, -2]);
    expect(ref.readScale(y.handle)[2]).toBe(Number.POSITIVE_INFINITY);
  });

  it('rounds at random when asked: both neighbours, the mean kept', () => {
    const y = empty(ref, [4000], 'e4m3');
    const x = new Float32Array(4000).fill(1.05);
    x[0] = 1.75;
    k.quantize({ y, x: tensorFrom(ref, 'f32', x), n: 4000, random: 77 });
    const values = valuesOf(y).slice(1);
    expect(new Set(values)).toEqual(new Set([1, 1.125]));
    expect(values.reduce((a, b) => a + b, 0) / 3999).toBeCloseTo(1.05, 2);
  });
});

it('quantize_rows is quantize and adds the column sums', () => {
  const x = tensorFrom(ref, 'bf16', normals(12 * 5));
  const sums = tensorFrom(ref, 'f32', [1, 2, 3, 4, 5]);
  const [y, z] = [empty(ref, [60], 'e5m2'), empty(ref, [60], 'e5m2')];
  k.quantize_rows({ y, sums, x, rows: 12, dim: 5, random: 0 });
  k.quantize({ y: z, x, n: 60, random: 0 });
  expect(rawBytes(y)).toEqual(rawBytes(z));
  const values = valuesOf(x);
  valuesOf(sums).forEach((s, c) => {
    let expected = c + 1;
    for (let r = 0; r < 12; r++) expected += values[r * 5 + c];
    expect(s).toBeCloseTo(expected, 5);
  });
});

it('cast keeps the present scale, counts what it clamps, and rounds once from float32 to bf16', () => {
  const y = tensorFrom(ref, 'e4m3', [0, 0, 0], 16);
  k.cast({ y, x: tensorFrom(ref, 'f32', [1, 29, -3]), n: 3, random: 0 });
  expect(Array.from(valuesOf(y))).toEqual([1, 28, -3]);
  expect(Array.from(ref.readScale(y.handle))).toEqual([16, 1 / 16, 29, 1]);
  const b = empty(ref, [3], 'bf16');
  k.cast({ y: b, x: tensorFrom(ref, 'f32', [1 + 2 ** -8, 1 + 3 * 2 ** -8, 3.4e38]), n: 3, random: 0 });
  expect(Array.from(valuesOf(b))).toEqual([1, 1 + 2 ** -6, Number.POSITIVE_INFINITY]);
  k.cast({ y: b, x: y, n: 3, random: 0 });
  expect(Array.from(valuesOf(b))).toEqual([1, 28, -3]);
});

it('accumulate_fp8 adds, and rescales to the sum', () => {
  const y = tensorFrom(ref, 'e4m3', [1, 2, -3], 64);
  k.accumulate_fp8({ y, x: tensorFrom(ref, 'f32', [100, -2, 3]), n: 3 });
  expect(Array.from(valuesOf(y))).toEqual([104, 0, 0]);
  expect(Array.from(ref.readScale(y.handle))).toEqual([4, 0.25, 101, 0]);
});

it('amax sees through scales, and NaN is infinite', () => {
  const y = empty(ref, [1], 'f32');
  k.amax({ y, x: tensorFrom(ref, 'f16', [1, -5, 2], 4), n: 3 });
  expect(valuesOf(y)[0]).toBe(5);
  k.amax({ y, x: tensorFrom(ref, 'e5m2', [1, Number.NaN]), n: 2 });
  expect(valuesOf(y)[0]).toBe(Number.POSITIVE_INFINITY);
});

describe('window_update', () => {
  it('takes the scale from the largest amax of the last 16 steps', () => {
    const amaxes = Array.from({ length: 60 }, (_, i) => 2 ** (((i * 37) % 19) - 9) * 1.3);
    const w = window(0, 0);
    for (let i = 0; i < amaxes.length; i++) {
      const now = valuesOf(w);
      now[windowSlot.amax] = amaxes[i];
      ref.write(w.handle, new Uint8Array(now.buffer));
      k.window_update({ windows: w, count: 1, max: 448 });
      const after = valuesOf(w);
      const largest = Math.max(...amaxes.slice(Math.max(0, i - 15), i + 1));
      expect(after[windowSlot.scale]).toBe(2 ** Math.floor(Math.log2(448 / Math.fround(largest))));
      expect(after[windowSlot.count]).toBe(Math.min(16, i + 1));
      expect(after[windowSlot.amax]).toBe(0);
    }
  });

  it('a non-finite amax warms up again and is not remembered', () => {
    const w = window(16, 4, Number.POSITIVE_INFINITY, [1, 2, 3]);
    k.window_update({ windows: w, count: 1, max: 448 });
    expect(Array.from(valuesOf(w).slice(0, 7))).toEqual([0, 128, 0, 0, 1, 2, 3]);
  });
});

it('mu_update halves mu when too many codes are at the end of the range, else lets it grow', () => {
  const mu = tensorFrom(ref, 'f32', [1]);
  const x = tensorFrom(ref, 'e5m2', [57344, -57344, 1, 2]);
  k.mu_update({ mu, x, n: 4, threshold: 0.4, growth: 1.5 });
  expect(valuesOf(mu)[0]).toBe(0.5);
  k.mu_update({ mu, x, n: 4, threshold: 0.6, growth: 1.5 });
  expect(valuesOf(mu)[0]).toBe(0.75);
});
