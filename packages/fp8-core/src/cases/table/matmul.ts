import type { FloatDType } from '../../dtype.ts';
import { type CaseRandom, close, input, type KernelCase, kernelCase, output, type TensorSpec } from '../case.ts';

type Out = 'f32' | 'bf16' | 'f16';

const near: Record<Out, ReturnType<typeof close>> = {
  f32: close(0, 3e-6, 'float32 sums over k in another order'),
  bf16: close(2 ** -7, 3e-6, 'one step of bf16 where the float32 sums straddle a tie'),
  f16: close(2 ** -10, 3e-6, 'one step of f16 where the float32 sums straddle a tie'),
};

interface Shape {
  m: number;
  n: number;
  k: number;
}

/** An operand in a dtype; scaled ones have a scale that is no accident. */
const operand = (r: CaseRandom, dtype: FloatDType, n: number): TensorSpec =>
  dtype === 'f32' || dtype === 'bf16'
    ? input(dtype, r.normals(n))
    : input(dtype, r.normals(n, 0.5), dtype === 'e4m3' ? 64 : 0.75);

interface Options {
  transA?: boolean;
  transB?: boolean;
  accumulate?: boolean;
  f32?: boolean;
  bias?: boolean;
  amax?: boolean;
  alpha?: number;
  c?: Out;
}

function gemm(a: FloatDType, b: FloatDType, { m, n, k }: Shape, o: Options = {}): KernelCase {
  const c = o.c ?? 'f32';
  const flags = [
    `${a} x ${b} -> ${c}`,
    `${m} x ${n} x ${k}`,
    `${o.transA ? 't' : 'n'}${o.transB ? 't' : 'n'}`,
    o.accumulate && 'accumulate',
    o.f32 && 'compute_f32',
    o.bias && 'bias',
    o.amax && 'amax',
    o.alpha && `alpha ${o.alpha}`,
  ];
  return kernelCase(
    'gemm',
    flags.filter(Boolean).join(', '),
    (r) => ({
      c: o.accumulate ? input(c, r.normals(m * n, 3)) : output(c, m * n),
      a: operand(r, a, m * k),
      b: operand(r, b, k * n),
      bias: o.bias ? input('f32', r.normals(n)) : null,
      amax: o.amax ? output('f32', 1) : null,
      m,
      n,
      k,
      trans_a: o.transA ? 1 : 0,
      trans_b: o.transB ? 1 : 0,
      accumulate: o.accumulate ? 1 : 0,
      compute_f32: o.f32 ? 1 : 0,
      alpha: o.alpha ?? 1,
    }),
    { c: near[c], amax: close(2 ** -7, 0, 'the largest element may round either way') },
  );
}

const floats = ['f32', 'bf16', 'f16', 'e4m3', 'e5m2'] as const;
const flags = [false, true] as const;
const odd = { m: 37, n: 53, k: 71 };

const gemms: KernelCase[] = [
  // Every pair of operand dtypes under the transposes of a linear layer: forward nt, dx nn, dw tn.
  ...floats.flatMap((a) =>
    floats.flatMap((b) => [
      gemm(a, b, odd, { transB: true, c: 'bf16', bias: true }),
      gemm(a, b, odd, { c: 'bf16' }),
      gemm(a, b, odd, { transA: true, accumulate: true }),
    ]),
  ),
  ...floats.flatMap((a) => [
    gemm(a, a, odd, { transA: true, transB: true }),
    gemm(a, 'f32', odd, { f32: true, transB: true }),
  ]),
  // All transposes, accumulate or not, in f32 and bf16, with everything else switched on.
  ...flags.flatMap((transA) =>
    flags.flatMap((transB) =>
      flags.flatMap((accumulate) => [
        gemm('f32', 'f32', odd, { transA, transB, accumulate, f32: true, bias: true, amax: true, alpha: -0.7 }),
        gemm('bf16', 'bf16', odd, { transA, transB, accumulate, c: 'bf16', bias: true, amax: true, alpha: 0.3 }),
        gemm('e4m3', 'e5m2', odd, { transA, transB, accumulate, amax: true, alpha: 2 }),
        gemm('bf16', 'e4m3', odd, { transA, transB, accumulate, c: 'f16' }),
      ]),
    ),
  ),
  // Sizes around tiles: one, vectors, one more and one less than powers of two, long sums, many rows.
  ...[
    { m: 1, n: 1, k: 1 },
    { m: 1, n: 200, k: 300 },
    { m: 200, n: 1, k: 300 },
    { m: 2, n: 3, k: 2 },
    { m: 16, n: 16, k: 32 },
    { m: 33, n: 31, k: 65 },
    { m: 63, n: 65, k: 127 },
    { m: 129, n: 130, k: 64 },
    { m: 5, n: 7, k: 1500 },
    { m: 200, n: 170, k: 33 },
  ].flatMap((shape) => [
    gemm('e4m3', 'e4m3', shape, { transB: true, c: 'bf16', amax: true }),
    gemm('bf16', 'bf16', shape, {}),
    gemm('f32', 'f32', shape, { f32: true, transA: true }),
    gemm('e5m2', 'e4m3', shape, { transA: true, accumulate: true }),
  ]),
  // Operands whose transposes have several tiles, the last ones not whole.
  gemm('e5m2', 'e4m3', { m: 96, n: 80, k: 300 }, { transA: true, c: 'bf16' }),
  gemm('bf16', 'bf16', { m: 3, n: 4, k: 0 }, { bias: true }),
  gemm('f32', 'f32', { m: 3, n: 4, k: 0 }, { f32: true, accumulate: true }),
  gemm('f32', 'f32', { m: 0, n: 4, k: 2 }, { f32: true }),
  kernelCase('gemm', 'NaN in a row reaches that row and the amax only', (r) => {
    const a = new Float32Array(6).fill(1);
    a[2] = Number.NaN;
    return {
      c: output('f32', 9),
      a: input('e4m3', a),
      b: input('e4m3', r.integers(6, -4, 5)),
      amax: output('f32', 1),
      m: 3,
      n: 3,
      k: 2,
      trans_a: 0,
      trans_b: 0,
      accumulate: 0,
      compute_f32: 0,
      alpha: 1,
    };
  }),
];

const sums = close(1e-5, 1e-6, 'float32 sums in another order');

const columns: KernelCase[] = (['f32', 'bf16'] as const).flatMap((x) =>
  [
    [1, 1],
    [7, 33],
    [300, 130],
    [1000, 3],
    [70, 264],
  ].map(([rows, dim]) =>
    kernelCase(
      'column_sums',
      `${x}, ${rows} x ${dim}`,
      (r) => ({ y: input('f32', r.normals(dim)), x: input(x, r.normals(rows * dim)), rows, dim }),
      { y: sums },
    ),
  ),
);

export const matmulCases: readonly KernelCase[] = [...gemms, ...columns];
