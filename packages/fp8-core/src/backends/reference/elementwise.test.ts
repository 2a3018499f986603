import { describe, expect, it } from 'vitest';
import { numericalGradient, relativeError } from '../../cases/gradients.ts';
import { tensorFrom, valuesOf } from '../../cases/tensors.ts';
import { normalAt } from '../../random.ts';
import { empty } from '../../tensor.ts';
import { referenceBackend } from '../reference.ts';

const ref = referenceBackend();
const k = ref.kernels;
const normals = (n: number, stream = 1) => Float32Array.from({ length: n }, (_, i) => normalAt(2, stream, i));
const f32 = (values: ArrayLike<number>) => tensorFrom(ref, 'f32', values);

describe('gelu', () => {
  const forward = (x: Float32Array): Float32Array => {
    const y = empty(ref, [x.length], 'f32');
    k.gelu_forward({ y, x: f32(x), n: x.length });
    return valuesOf(y);
  };

  it('has the known values, and is x or 0 far out', () => {
    // gelu(1) and gelu(-1) of the tanh form, to 7 digits, as published with the common frameworks.
    const got = forward(Float32Array.of(0, 1, -1, 100, -100, 1e30, -1e30));
    [0, 0.841192, -0.158808, 100, 0, 1e30, 0].forEach((v, i) => {
      expect(Math.abs(got[i] - v)).toBeLessThanOrEqual(1e-6 * Math.max(1, v));
    });
  });

  it('backward is its derivative', () => {
    const x = normals(50).map((v) => 2 * v);
    const dy = normals(50, 2);
    const dx = empty(ref, [50], 'f32');
    k.gelu_backward({ dx, dy: f32(dy), x: f32(x), n: 50 });
    expect(relativeError(valuesOf(dx), numericalGradient(forward, x, dy))).toBeLessThan(1e-4);
  });

  it('writes fp8 as if the float32 values were quantised', () => {
    const x = f32(normals(100));
    const [y, z, wide] = [empty(ref, [100], 'e4m3'), empty(ref, [100], 'e4m3'), empty(ref, [100], 'f32')];
    k.gelu_forward({ y, x, n: 100 });
    k.gelu_forward({ y: wide, x, n: 100 });
    k.quantize({ y: z, x: wide, n: 100, random: 0 });
    expect(valuesOf(y)).toEqual(valuesOf(z));
    expect(ref.readScale(y.handle)).toEqual(ref.readScale(z.handle));
  });
});

it('swiglu: silu(gate) * up, and backward is its derivative', () => {
  const [rows, dim] = [3, 5];
  const forward = (x: Float32Array): Float32Array => {
    const y = empty(ref, [rows * dim], 'f32');
    k.swiglu_forward({ y, x: f32(x), rows, dim });
    return valuesOf(y);
  };
  expect(forward(Float32Array.from({ length: 30 }, (_, i) => (i % 10 < 5 ? 1 : 2)))[0]).toBeCloseTo(
    2 / (1 + Math.exp(-1)),
  );
  const x = normals(rows * 2 * dim);
  const dy = normals(rows * dim, 2);
  const dx = empty(ref, [x.length], 'f32');
  k.swiglu_backward({ dx, dy: f32(dy), x: f32(x), rows, dim });
  expect(relativeError(valuesOf(dx), numericalGradient(forward, x, dy))).toBeLessThan(1e-4);
});

describe('dropout', () => {
  const n = 4000;
  const run = (rate: number, offset: number, count: number, residual: number[] | null = null, seed = 1) => {
    const y = empty(ref, [count], 'f32');
    const x = f32(new Float32Array(count).fill(1));
    k.dropout({ y, x, residual: residual && f32(residual), n: count, rate, seed, stream: 9, offset });
    return valuesOf(y);
  };

  it('drops its share and keeps the mean', () => {
    const y = run(0.25, 0, n);
    expect(new Set(y)).toEqual(new Set([0, Math.fround(1 / 0.75)]));
    // A share of n draws strays by sqrt(p (1 - p) / n) a sigma; 5 sigma.
    const dropped = y.filter((v) => v === 0).length / n;
    expect(Math.abs(dropped - 0.25)).toBeLessThan(5 * Math.sqrt((0.25 * 0.75) / n));
    expect(run(0, 0, 50)).toEqual(new Float32Array(50).fill(1));
  });

  it('masks by element number, so a slice has its part of the mask, and a seed its own', () => {
    const whole = run(0.5, 0, 64);
    for (const offset of [1, 5, 30]) expect(run(0.5, offset, 20)).toEqual(whole.slice(offset, offset + 20));
    expect(run(0.5, 0, 64, null, 2)).not.toEqual(whole);
    const residual = Array.from({ length: 64 }, (_, i) => i);
    expect(run(0.5, 0, 64, residual)).toEqual(whole.map((v, i) => v + i));
  });

  it('refuses a rate outside [0, 1)', () => {
    for (const rate of [1, -0.1, Number.NaN]) expect(() => run(rate, 0, 4)).toThrow(`rate is ${rate}`);
  });
});

describe('rope', () => {
  const shape = { rows: 12, batch: 2, heads: 2, kv_heads: 1, head_dim: 8, theta: 10000 };
  const width = 4 * 8;
  const rotate = (x: Float32Array, position: number, inverse = 0): Float32Array => {
    const y = empty(ref, [x.length], 'f32');
    k.rope({ y, x: f32(x), position, inverse, ...shape });
    return valuesOf(y);
  };
  const x = normals(shape.rows * width);

  it('leaves v and position 0 alone, keeps lengths, and its inverse undoes it', () => {
    const y = rotate(x, 0);
    expect(y.slice(0, 2 * width)).toEqual(x.slice(0, 2 * width));
    for (let r = 0; r < shape.rows; r++) {
      expect(y.slice(r * width + 24, r * width + 32)).toEqual(x.slice(r * width + 24, r * width + 32));
    }
    const square = (a: Float32Array) => a.reduce((s, v) => s + v * v, 0);
    expect(square(y)).toBeCloseTo(square(x), 2);
    expect(relativeError(rotate(rotate(x, 3), 3, 1), x)).toBeLessThan(1e-6);
  });

  it('makes q . k depend on the distance of their positions only', () => {
    const score = (position: number, i: number, j: number): number => {
      // The same q in every row, the same k in every row: only positions differ.
      const y = rotate(
        x.map((_, at) => x[at % width]),
        position,
      );
      let s = 0;
      for (let d = 0; d < 8; d++) s += y[i * 2 * width + d] * y[j * 2 * width + 16 + d];
      return s;
    };
    expect(score(0, 4, 1)).toBeCloseTo(score(50, 5, 2), 4);
    expect(score(0, 4, 1)).not.toBeCloseTo(score(0, 4, 2), 2);
  });
});

it('add and scale round once to bf16; fill fills what it is told to', () => {
  const y = empty(ref, [2], 'bf16');
  k.add({ y, a: tensorFrom(ref, 'bf16', [1, 256]), b: f32([2 ** -8, 1 + 2 ** -12]), n: 2 });
  expect(Array.from(valuesOf(y))).toEqual([1, 258]);
  k.scale({ y, x: y, n: 2, alpha: -0.5 });
  expect(Array.from(valuesOf(y))).toEqual([-0.5, -129]);
  for (const dtype of ['f32', 'bf16', 'i32'] as const) {
    const t = tensorFrom(ref, dtype, [1, 1, 1]);
    k.fill({ y: t, n: 2, value: -7 });
    expect(Array.from(valuesOf(t))).toEqual([-7, -7, 1]);
  }
});
