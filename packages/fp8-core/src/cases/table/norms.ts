import {
  type CaseRandom,
  close,
  input,
  type KernelCase,
  kernelCase,
  output,
  sameAs,
  type TensorSpec,
} from '../case.ts';
import { window } from './casts.ts';
import { near, nearCodes, nearWindow } from './elementwise.ts';

const acts = ['f32', 'bf16'] as const;
const fp8 = ['e4m3', 'e5m2'] as const;
const stats = close(1e-5, 1e-6, 'float32 sums in another order');
const sums = close(1e-5, 2e-6, 'float32 sums over rows in another order');
/** In a row of one the gradient is 0 but for rounding, hence the absolute term. */
const gradient = (t: 'f32' | 'bf16') =>
  t === 'f32' ? close(1e-5, 2e-6, 'float32 sums over the row', 1e-6) : close(2 ** -7, 2e-6, 'one step of bf16', 1e-6);
const offCentre = close(1e-5, 3e-6, 'x - mean cancels where the mean is 50 times the deviation');

/** Per-row statistics as the forward pass would give them, so that the backward kernel is tried alone. */
function layerStats(x: Float32Array, rows: number, dim: number): number[] {
  return Array.from({ length: rows }, (_, r) => {
    const row = x.subarray(r * dim, (r + 1) * dim);
    const mean = row.reduce((a, b) => a + b, 0) / dim;
    return [mean, 1 / Math.sqrt(row.reduce((a, b) => a + (b - mean) ** 2, 0) / dim + 1e-5)];
  }).flat();
}

const rmsStats = (x: Float32Array, rows: number, dim: number): number[] =>
  Array.from({ length: rows }, (_, r) => {
    const row = x.subarray(r * dim, (r + 1) * dim);
    return 1 / Math.sqrt(row.reduce((a, b) => a + b * b, 0) / dim + 1e-5);
  });

const shapes = [
  { rows: 1, dim: 1 },
  { rows: 7, dim: 33 },
  { rows: 130, dim: 96 },
  { rows: 3, dim: 2056 },
];

const layerForward: KernelCase[] = acts.flatMap((x) => [
  ...acts.flatMap((y) =>
    shapes.map(({ rows, dim }) =>
      kernelCase(
        'layer_norm_forward',
        `${x} -> ${y}, ${rows} x ${dim}`,
        (r) => ({
          y: output(y, rows * dim),
          stats: output('f32', rows * 2),
          x: input(x, r.normals(rows * dim, 2, 1)),
          weight: input('f32', r.normals(dim)),
          bias: dim === 33 ? null : input('f32', r.normals(dim)),
          rows,
          dim,
          eps: 1e-5,
        }),
        { y: near(y), stats },
      ),
    ),
  ),
  ...fp8.flatMap((y) =>
    [null, window(4, 2), window(16, 32, 1)].map((w, i) =>
      kernelCase(
        'layer_norm_forward',
        `${x} -> ${y}, ${['just in time', 'cold window', 'warm window'][i]}`,
        (r) => ({
          y: output(y, 31 * 40),
          stats: output('f32', 62),
          x: input(x, r.normals(31 * 40)),
          weight: input('f32', r.normals(40)),
          bias: input('f32', r.normals(40)),
          window: w,
          rows: 31,
          dim: 40,
          eps: 1e-5,
        }),
        { y: nearCodes, stats, window: nearWindow },
      ),
    ),
  ),
  kernelCase(
    'layer_norm_forward',
    `${x}, mean far from 0`,
    (r) => ({
      y: output('f32', 3 * 100),
      stats: output('f32', 6),
      x: input(x, r.normals(300, 1, 50)),
      weight: input('f32', r.normals(100)),
      rows: 3,
      dim: 100,
      eps: 1e-5,
    }),
    { y: offCentre, stats: offCentre },
  ),
  kernelCase(
    'layer_norm_forward',
    `${x}, constant rows`,
    () => ({
      y: output('f32', 64),
      stats: output('f32', 4),
      x: input(x, new Float32Array(64).fill(3)),
      weight: input('f32', new Float32Array(32).fill(1)),
      bias: input('f32', new Float32Array(32).fill(0.5)),
      rows: 2,
      dim: 32,
      eps: 1e-5,
    }),
    { y: stats, stats },
  ),
]);

const layerBackward: KernelCase[] = acts.flatMap((t) =>
  shapes.flatMap(({ rows, dim }) => {
    const args = (r: CaseRandom, residual: TensorSpec | null, dx: TensorSpec, bias: boolean) => {
      const x = r.normals(rows * dim, 2, 1);
      return {
        dx,
        dweight: input('f32', r.normals(dim)),
        dbias: bias ? input('f32', r.normals(dim)) : null,
        dy: input(t, r.normals(rows * dim)),
        x: input(t, x),
        weight: input('f32', r.normals(dim)),
        stats: input('f32', layerStats(x, rows, dim)),
        residual,
        rows,
        dim,
      };
    };
    const n = rows * dim;
    return [
      kernelCase('layer_norm_backward', `${t}, ${rows} x ${dim}`, (r) => args(r, null, output(t, n), false), {
        dx: gradient(t),
        dweight: sums,
      }),
      kernelCase(
        'layer_norm_backward',
        `${t}, ${rows} x ${dim}, bias and residual`,
        (r) => args(r, input('f32', r.normals(n)), output(t, n), true),
        { dx: gradient(t), dweight: sums, dbias: sums },
      ),
      kernelCase(
        'layer_norm_backward',
        `${t}, ${rows} x ${dim}, into the residual`,
        (r) => args(r, input(t, r.normals(n)), sameAs('residual'), true),
        { dx: gradient(t), dweight: sums, dbias: sums },
      ),
    ];
  }),
);

/**
 * bf16 to FP8 where backends may have kernels of their own: teams of one warp and of many, rounds with the last row missing,
 * more rows than a device has places for at once, statistics that one pass about 0 does not give, what saturates, and a NaN.
 */
const toFp8: KernelCase[] = [
  { y: 'e4m3', rows: 205, dim: 264, w: null, what: 'just in time' },
  { y: 'e5m2', rows: 51, dim: 1600, w: window(16, 1024), what: 'warm window' },
  { y: 'e4m3', rows: 7, dim: 8192, w: window(4, 2), what: 'cold window' },
  { y: 'e4m3', rows: 3, dim: 12288, w: window(16, 128, 1), what: 'warm window, saturating' },
  { y: 'e5m2', rows: 37, dim: 520, w: window(16, 2 ** 14), what: 'warm window, saturating' },
  { y: 'e4m3', rows: 1, dim: 16392, w: null, what: 'just in time' },
  { y: 'e4m3', rows: 8500, dim: 16, w: window(16, 1024), what: 'warm window, most saturate' },
  { y: 'e4m3', rows: 50, dim: 264, w: window(16, 32), what: 'every third row far from 0', far: 100 },
  { y: 'e4m3', rows: 5, dim: 4104, w: null, what: 'every third row far from 0', far: -100 },
  { y: 'e5m2', rows: 40, dim: 264, w: window(16, 32), what: 'a NaN', nan: 7 * 264 + 5 },
  { y: 'e4m3', rows: 40, dim: 264, w: window(4, 2), what: 'an infinity, cold window', inf: 39 * 264 },
  { y: 'e4m3', rows: 0, dim: 264, w: window(16, 32, 1), what: 'no rows' },
  { y: 'e4m3', rows: 0, dim: 264, w: null, what: 'no rows, just in time' },
].flatMap(({ y, rows, dim, w, what, far, nan, inf }) =>
  [false, true].map((bias) => {
    const args = (r: CaseRandom) => {
      const x = r.normals(rows * dim, 2).map((v, i) => (far && Math.floor(i / dim) % 3 === 0 ? v + far : v));
      if (nan !== undefined) x[nan] = Number.NaN;
      if (inf !== undefined) x[inf] = Number.POSITIVE_INFINITY;
      return {
        y: output(y as 'e4m3' | 'e5m2', rows * dim),
        x: input('bf16', x),
        weight: input('f32', r.normals(dim)),
        window: w,
        rows,
        dim,
        eps: 1e-5,
      };
    };
    const compare = { y: nearCodes, stats: far ? offCentre : stats, window: nearWindow };
    const name = `bf16 -> ${y}, ${rows} x ${dim}, ${what}`;
    return bias
      ? kernelCase(
          'layer_norm_forward',
          name,
          (r) => ({ ...args(r), stats: output('f32', rows * 2), bias: input('f32', r.normals(dim)) }),
          compare,
        )
      : kernelCase('rms_norm_forward', name, (r) => ({ ...args(r), stats: output('f32', rows) }), compare);
  }),
);

const rms: KernelCase[] = acts.flatMap((t) => [
  ...shapes.flatMap(({ rows, dim }) => [
    kernelCase(
      'rms_norm_forward',
      `${t}, ${rows} x ${dim}`,
      (r) => ({
        y: output(t, rows * dim),
        stats: output('f32', rows),
        x: input('bf16', r.normals(rows * dim, 2)),
        weight: input('f32', r.normals(dim)),
        rows,
        dim,
        eps: 1e-5,
      }),
      { y: near(t), stats },
    ),
    ...[false, true].map((residual) =>
      kernelCase(
        'rms_norm_backward',
        `${t}, ${rows} x ${dim}${residual ? ', into the residual' : ''}`,
        (r) => {
          const x = r.normals(rows * dim, 2);
          return {
            dx: residual ? sameAs('residual') : output(t, rows * dim),
            dweight: input('f32', r.normals(dim)),
            dy: input(residual ? t : 'bf16', r.normals(rows * dim)),
            x: input(t, x),
            weight: input('f32', r.normals(dim)),
            stats: input('f32', rmsStats(x, rows, dim)),
            residual: residual ? input(t, r.normals(rows * dim)) : null,
            rows,
            dim,
          };
        },
        { dx: gradient(t), dweight: sums },
      ),
    ),
  ]),
  ...fp8.flatMap((y) =>
    [null, window(4, 2), window(16, 32, 1)].map((w, i) =>
      kernelCase(
        'rms_norm_forward',
        `${t} -> ${y}, ${['just in time', 'cold window', 'warm window'][i]}`,
        (r) => ({
          y: output(y, 31 * 40),
          stats: output('f32', 31),
          x: input(t, r.normals(31 * 40)),
          weight: input('f32', r.normals(40)),
          window: w,
          rows: 31,
          dim: 40,
          eps: 1e-6,
        }),
        { y: nearCodes, stats, window: nearWindow },
      ),
    ),
  ),
]);

export const normCases: readonly KernelCase[] = [...layerForward, ...layerBackward, ...rms, ...toFp8];
