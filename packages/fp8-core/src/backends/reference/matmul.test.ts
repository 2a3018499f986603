import { expect, it } from 'vitest';
import { relativeError } from '../../cases/gradients.ts';
import { tensorFrom, valuesOf } from '../../cases/tensors.ts';
import { normalAt } from '../../random.ts';
import type { Tensor } from '../../tensor.ts';
import { referenceBackend } from '../reference.ts';

const ref = referenceBackend();
const k = ref.kernels;
const [m, n, depth] = [5, 7, 6];
const normals = (count: number, stream: number) =>
  Float32Array.from({ length: count }, (_, i) => normalAt(4, stream, i));
const f32 = (values: ArrayLike<number>) => tensorFrom(ref, 'f32', values);

const a = normals(m * depth, 1);
const b = normals(depth * n, 2);
const transpose = (x: Float32Array, rows: number, cols: number) =>
  x.map((_, i) => x[(i % rows) * cols + Math.floor(i / rows)]);

/** The entry-wise definition, in float64. */
function product(x: Float32Array, y: Float32Array): Float64Array {
  const c = new Float64Array(m * n);
  for (let i = 0; i < m; i++)
    for (let j = 0; j < n; j++) for (let p = 0; p < depth; p++) c[i * n + j] += x[i * depth + p] * y[p * n + j];
  return c;
}

function gemm(x: Tensor, y: Tensor, options: Partial<Parameters<typeof k.gemm>[0]> = {}) {
  const c = options.c ?? f32(new Float32Array(m * n));
  k.gemm({
    c,
    a: x,
    b: y,
    m,
    n,
    k: depth,
    trans_a: 0,
    trans_b: 0,
    accumulate: 0,
    compute_f32: 1,
    alpha: 1,
    ...options,
  });
  return valuesOf(c);
}

it('is the matrix product under all four transposes', () => {
  const expected = product(a, b);
  const at = transpose(a, m, depth);
  const bt = transpose(b, depth, n);
  expect(relativeError(gemm(f32(a), f32(b)), expected)).toBeLessThan(1e-7);
  expect(relativeError(gemm(f32(at), f32(b), { trans_a: 1 }), expected)).toBeLessThan(1e-7);
  expect(relativeError(gemm(f32(a), f32(bt), { trans_b: 1 }), expected)).toBeLessThan(1e-7);
  expect(relativeError(gemm(f32(at), f32(bt), { trans_a: 1, trans_b: 1 }), expected)).toBeLessThan(1e-7);
});

it('adds alpha times the product, the bias and what was there', () => {
  const bias = normals(n, 3);
  const c = f32(new Float32Array(m * n).fill(2));
  const amax = f32([0]);
  const got = gemm(f32(a), f32(b), { c, bias: f32(bias), amax, accumulate: 1, alpha: -0.5 });
  const expected = product(a, b).map((v, i) => -0.5 * v + bias[i % n] + 2);
  expect(relativeError(got, expected)).toBeLessThan(1e-6);
  expect(valuesOf(amax)[0]).toBe(Math.max(...got.map(Math.abs)));
});

it('undoes the scales of fp8 operands, and rounds operands to bf16 unless told not to', () => {
  const x = tensorFrom(ref, 'e4m3', a, 16);
  const y = tensorFrom(ref, 'e5m2', b, 1 / 4);
  const expected = product(valuesOf(x), valuesOf(y));
  expect(relativeError(gemm(x, y), expected)).toBeLessThan(1e-6);
  expect(relativeError(gemm(x, y, { compute_f32: 0 }), expected)).toBeLessThan(1e-6);
  const rounded = product(valuesOf(tensorFrom(ref, 'bf16', a)), valuesOf(tensorFrom(ref, 'bf16', b)));
  expect(relativeError(gemm(f32(a), f32(b), { compute_f32: 0 }), rounded)).toBeLessThan(1e-6);
  expect(relativeError(gemm(f32(a), f32(b)), rounded)).toBeGreaterThan(1e-4);
});

it('a product over nothing is the bias, or what was there', () => {
  const none = f32([]);
  const got = gemm(none, none, { k: 0, bias: f32([1, 2, 3, 4, 5, 6, 7]) });
  expect(Array.from(got.slice(0, 8))).toEqual([1, 2, 3, 4, 5, 6, 7, 1]);
});

it('column_sums adds the sums of columns', () => {
  const y = f32([10, 20]);
  k.column_sums({ y, x: tensorFrom(ref, 'bf16', [1, 2, 3, 4, 5, 6]), rows: 3, dim: 2 });
  expect(Array.from(valuesOf(y))).toEqual([19, 32]);
});
