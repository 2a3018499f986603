import { type DType, dtypes, type FloatDType, type Fp8DType } from '../../dtype.ts';
import { type CaseRandom, close, finiteSpecials, input, type KernelCase, kernelCase, output } from '../case.ts';

const floats: readonly FloatDType[] = ['f32', 'bf16', 'f16', 'e4m3', 'e5m2'];
const scaled = ['e4m3', 'e5m2', 'f16'] as const;
const fp8: readonly Fp8DType[] = ['e4m3', 'e5m2'];
const acts = ['f32', 'bf16'] as const;

/** An amax window: steps seen, scale, amax of the running step, earlier amaxes. */
export const window = (count: number, scale: number, amax = 0, history: number[] = []) =>
  input('f32', [count, scale, amax, ...history, ...new Float32Array(15 - history.length)]);

const extremes = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 3e38, -3e38, 2e-45];
const columnSums = close(1e-5, 1e-6, 'float32 sums in another order');

/** Values of a source in a dtype; what a scaled source holds is kept in its range by a scale of its own. */
const source = (r: CaseRandom, dtype: DType, n: number) =>
  dtype === 'f32' || dtype === 'bf16' ? input(dtype, r.difficult(n)) : input(dtype, r.normals(n, 3), 4);

const quantizes: KernelCase[] = [
  ...scaled.flatMap((y) =>
    floats.map((x) =>
      kernelCase('quantize', `${x} -> ${y} just in time`, (r) => ({
        y: output(y, 1003),
        x: source(r, x, 1003),
        n: 1003,
        random: 0,
      })),
    ),
  ),
  ...scaled.flatMap((y) => [
    kernelCase('quantize', `${y}, every difficult value`, () => ({
      y: output(y, finiteSpecials.length),
      x: input('f32', finiteSpecials),
      n: finiteSpecials.length,
      random: 0,
    })),
    kernelCase('quantize', `${y}, NaN and infinities keep the previous scale`, () => ({
      y: output(y, 9, 0.5),
      x: input('f32', [...extremes, 1, 2, -3]),
      n: 9,
      random: 0,
    })),
    kernelCase('quantize', `${y}, all zeros, a previous scale of infinity`, () => ({
      y: output(y, 70, Number.POSITIVE_INFINITY),
      x: input('f32', new Float32Array(70)),
      n: 70,
      random: 0,
    })),
    kernelCase('quantize', `${y}, subnormal amax`, (r) => ({
      y: output(y, 33),
      x: input('f32', r.normals(33, 2 ** -130)),
      n: 33,
      random: 0,
    })),
    kernelCase('quantize', `${y}, cold window`, (r) => ({
      y: output(y, 517),
      x: input('bf16', r.normals(517)),
      window: window(15, 2 ** 14, 0.25, [1, 2, 3]),
      n: 517,
      random: 0,
    })),
    kernelCase('quantize', `${y}, cold empty window, zeros`, () => ({
      y: output(y, 5, 64),
      x: input('f32', new Float32Array(5)),
      window: window(0, 0),
      n: 5,
      random: 0,
    })),
    kernelCase('quantize', `${y}, warm window, saturating`, (r) => ({
      y: output(y, 517),
      x: input('bf16', r.normals(517)),
      window: window(16, dtypes[y].max, 0.25, [1, 2, 3]),
      n: 517,
      random: 0,
    })),
    kernelCase('quantize', `${y}, warm window that has seen more, NaN within`, (r) => ({
      y: output(y, 200),
      x: input('f32', [...r.normals(199), Number.NaN]),
      window: window(16, 8, 100),
      n: 200,
      random: 0,
    })),
    kernelCase('quantize', `${y}, mu no power of two, just in time`, (r) => ({
      y: output(y, 131),
      x: input('f32', r.normals(131)),
      mu: input('f32', [1.7]),
      n: 131,
      random: 0,
    })),
    kernelCase('quantize', `${y}, mu with a warm window`, (r) => ({
      y: output(y, 131),
      x: input('f32', r.normals(131)),
      window: window(16, 4),
      mu: input('f32', [0.3]),
      n: 131,
      random: 0,
    })),
    ...[0.5, 1e6, Number.POSITIVE_INFINITY, Number.NaN].map((known) =>
      kernelCase('quantize', `${y}, an amax told by the caller: ${known}`, (r) => ({
        y: output(y, 131, 2),
        x: input('f32', r.normals(131)),
        known: input('f32', [known]),
        n: 131,
        random: 0,
      })),
    ),
    kernelCase('quantize', `${y}, stochastic, key above 2^32`, (r) => ({
      y: output(y, 1003),
      x: input('f32', r.difficult(1003)),
      n: 1003,
      random: 2 ** 40 + 12345,
    })),
    kernelCase('quantize', `${y}, one element`, () => ({
      y: output(y, 1),
      x: input('f32', [-1.3]),
      n: 1,
      random: 0,
    })),
    kernelCase('quantize', `${y}, none`, () => ({ y: output(y, 0), x: input('f32', []), n: 0, random: 0 })),
  ]),
  kernelCase('quantize', 'e4m3, a large tensor (several threads)', (r) => ({
    y: output('e4m3', 70_001),
    x: input('f32', r.normals(70_001)),
    window: window(3, 1),
    n: 70_001,
    random: 0,
  })),
  kernelCase('quantize', 'e5m2, a large tensor of bf16', (r) => ({
    y: output('e5m2', 70_003),
    x: input('bf16', r.difficult(70_003)),
    n: 70_003,
    random: 0,
  })),
  kernelCase('quantize', 'e5m2, a large tensor, stochastic', (r) => ({
    y: output('e5m2', 70_001),
    x: input('bf16', r.normals(70_001)),
    n: 70_001,
    random: 99,
  })),
];

const casts: KernelCase[] = [
  ...floats.flatMap((y) =>
    floats.map((x) =>
      kernelCase('cast', `${x} -> ${y}`, (r) => ({
        y: output(y, 1003, dtypes[y].scaled ? 8 : 1),
        x: source(r, x, 1003),
        n: 1003,
        random: 0,
      })),
    ),
  ),
  ...floats.map((y) =>
    kernelCase('cast', `${y}, specials`, () => ({
      y: output(y, finiteSpecials.length + 6, dtypes[y].scaled ? 2 : 1),
      x: input('f32', [...finiteSpecials, ...extremes]),
      n: finiteSpecials.length + 6,
      random: 0,
    })),
  ),
  ...scaled.map((y) =>
    kernelCase('cast', `${y}, stochastic`, (r) => ({
      y: output(y, 259, 1.5),
      x: input('f32', r.difficult(259)),
      n: 259,
      random: 7,
    })),
  ),
];

const rows: KernelCase[] = fp8.flatMap((y) =>
  acts.flatMap((x) => [
    kernelCase(
      'quantize_rows',
      `${x} -> ${y}, sums, just in time`,
      (r) => ({
        y: output(y, 37 * 19),
        sums: input('f32', r.normals(19)),
        x: input(x, r.normals(37 * 19)),
        rows: 37,
        dim: 19,
        random: 0,
      }),
      { sums: columnSums },
    ),
    ...[
      { what: 'large', rows: 300, dim: 130 },
      { what: 'whole vectors', rows: 70, dim: 264 },
    ].map(({ what, rows, dim }) =>
      kernelCase(
        'quantize_rows',
        `${x} -> ${y}, sums, warm window, ${what}`,
        (r) => ({
          y: output(y, rows * dim),
          sums: input('f32', new Float32Array(dim)),
          x: input(x, r.normals(rows * dim)),
          window: window(16, 16),
          rows,
          dim,
          random: 0,
        }),
        { sums: columnSums },
      ),
    ),
    ...[
      { rows: 272, dim: 144 },
      { rows: 400, dim: 48 },
      { rows: 37, dim: 19 },
    ].map(({ rows, dim }) =>
      kernelCase(
        'quantize_rows',
        `${x} -> ${y}, ${rows} x ${dim}, transposed too`,
        (r) => ({
          y: output(y, rows * dim),
          transposed: output(y, rows * dim),
          sums: input('f32', r.normals(dim)),
          x: input(x, r.difficult(rows * dim)),
          window: window(16, 16),
          rows,
          dim,
          random: 0,
        }),
        { sums: columnSums },
      ),
    ),
    kernelCase('quantize_rows', `${x} -> ${y}, transposed too, no sums, cold window`, (r) => ({
      y: output(y, 144 * 80),
      transposed: output(y, 144 * 80),
      x: input(x, r.difficult(144 * 80)),
      window: window(2, 4),
      rows: 144,
      dim: 80,
      random: 0,
    })),
    kernelCase('quantize_rows', `${x} -> ${y}, no sums, cold window, stochastic`, (r) => ({
      y: output(y, 9 * 33),
      x: input(x, r.normals(9 * 33)),
      window: window(2, 4),
      rows: 9,
      dim: 33,
      random: 5,
    })),
  ]),
);

const accumulates: KernelCase[] = fp8.flatMap((y) =>
  acts.flatMap((x) => [
    kernelCase('accumulate_fp8', `${x} into ${y}`, (r) => ({
      y: input(y, r.normals(1003, 2), 8),
      x: input(x, r.normals(1003, 50)),
      n: 1003,
    })),
    kernelCase('accumulate_fp8', `${x} into ${y}, mu, scale no power of two`, (r) => ({
      y: input(y, r.normals(77, 2), 6.5),
      x: input(x, r.difficult(77)),
      mu: input('f32', [1.25]),
      n: 77,
    })),
    kernelCase('accumulate_fp8', `${x} into ${y}, to zero and to NaN`, (r) => ({
      y: input(y, [...r.normals(31), 1], 4),
      x: input(x, [...new Float32Array(31), Number.NaN]),
      n: 32,
    })),
  ]),
);

const amaxes: KernelCase[] = floats.flatMap((x) => [
  kernelCase('amax', `${x}`, (r) => ({ y: output('f32', 1), x: source(r, x, 1003), n: 1003 })),
  kernelCase('amax', `${x}, with a NaN last`, (r) => ({
    y: output('f32', 1),
    x: input(x, [...r.normals(80), Number.NaN]),
    n: 81,
  })),
  kernelCase('amax', `${x}, a large tensor`, (r) => ({ y: output('f32', 1), x: source(r, x, 70_003), n: 70_003 })),
  kernelCase('amax', `${x}, zeros`, () => ({ y: output('f32', 1), x: input(x, new Float32Array(17)), n: 17 })),
]);

const states: KernelCase[] = [
  ...[448, 57344].map((max) =>
    kernelCase('window_update', `max ${max}: cold, warm, falling, zero, NaN and infinite`, (r) => {
      const history = () => Array.from(r.wide(15, -10, 10), Math.abs);
      const one = (count: number, scale: number, amax: number, old: number[]) => [count, scale, amax, ...old];
      const zeros = [...new Float32Array(15)];
      return {
        windows: input('f32', [
          ...one(0, 0, 3, zeros),
          ...one(0, 0, 0, zeros),
          ...one(5, 2, 1e-3, history()),
          ...one(15, 2, 1e6, history()),
          ...one(16, 0.5, 0.1, history()),
          ...one(16, 0.5, 0, zeros),
          ...one(16, 4, Number.POSITIVE_INFINITY, history()),
          ...one(7, 4, Number.NaN, history()),
          ...one(16, 1, 2 ** -149, zeros),
          ...one(16, 1, max, zeros),
        ]),
        count: 10,
        max,
      };
    }),
  ),
  ...fp8.flatMap((x) => [
    kernelCase('mu_update', `${x}, a few saturated: grows`, (r) => ({
      mu: input('f32', [0.7]),
      x: input(x, [...r.normals(5000), dtypes[x].max]),
      n: 5001,
      threshold: 1e-3,
      growth: 2 ** (1 / 1000),
    })),
    kernelCase('mu_update', `${x}, many saturated, both signs: halves`, (r) => ({
      mu: input('f32', [0.7]),
      x: input(x, [...r.normals(700), dtypes[x].max, -dtypes[x].max]),
      n: 702,
      threshold: 1e-5,
      growth: 2 ** (1 / 1000),
    })),
    kernelCase('mu_update', `${x}, NaN does not count as saturated`, (r) => ({
      mu: input('f32', [0.7]),
      x: input(x, [...r.normals(70), Number.NaN, Number.NaN]),
      n: 72,
      threshold: 1e-5,
      growth: 1.5,
    })),
    kernelCase('saturated', `${x}, both signs, NaN not counted`, (r) => ({
      y: output('f32', 1),
      x: input(x, [...r.normals(70_000), dtypes[x].max, Number.NaN, -dtypes[x].max]),
      n: 70_003,
    })),
    kernelCase('saturated', `${x}, none`, (r) => ({ y: output('f32', 1), x: input(x, r.normals(77)), n: 77 })),
  ]),
  ...[
    { name: 'grows at the threshold', count: 100, total: 1e7 },
    { name: 'halves above it', count: 101, total: 1e7 },
    { name: 'an empty shard', count: 0, total: 0 },
  ].map(({ name, count, total }) =>
    kernelCase('mu_follow', name, () => ({
      mu: input('f32', [0.7]),
      count: input('f32', [count]),
      total,
      threshold: 1e-5,
      growth: 2 ** (1 / 1000),
    })),
  ),
  ...([...floats, 'i32'] as const).flatMap((y) => [
    kernelCase('fill', y, () => ({
      y: output(y, 1003, y === 'i32' || !dtypes[y].scaled ? 1 : 4),
      n: 1003,
      value: y === 'i32' ? -12345 : -0.1,
    })),
    kernelCase('fill', `${y}, zero`, () => ({ y: output(y, 33), n: 33, value: 0 })),
  ]),
];

export const castCases: readonly KernelCase[] = [...quantizes, ...casts, ...rows, ...accumulates, ...amaxes, ...states];
