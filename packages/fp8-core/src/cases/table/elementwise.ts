import type { ActDType } from '../../dtype.ts';
import { close, codes, finiteSpecials, input, type KernelCase, kernelCase, output, sameAs } from '../case.ts';
import { window } from './casts.ts';

const acts = ['f32', 'bf16'] as const;
const fp8 = ['e4m3', 'e5m2'] as const;

/** One rounding of the output in its dtype, and a float32 exp inside. */
export const near = (y: ActDType) =>
  y === 'f32'
    ? close(1e-5, 2e-7, 'float32 exp, a few roundings')
    : close(2 ** -7, 2e-7, 'one step of bf16 where the float32 results straddle a tie');
export const nearCodes = codes(0.02, 'the float32 results straddle a tie');
export const nearWindow = close(1e-6, 0, 'amax of float32 results');

const plain: KernelCase[] = acts.flatMap((y) =>
  acts.flatMap((a) => [
    kernelCase('add', `${a} + bf16 -> ${y}`, (r) => ({
      y: output(y, 1003),
      a: input(a, r.difficult(1003)),
      b: input('bf16', r.normals(1003)),
      n: 1003,
    })),
    kernelCase('add', `${a} + f32 -> ${y}, infinities and NaN`, () => ({
      y: output(y, 4),
      a: input(a, [Number.POSITIVE_INFINITY, 1, 3e38, Number.NaN]),
      b: input('f32', [Number.NEGATIVE_INFINITY, Number.NaN, 3e38, 1]),
      n: 4,
    })),
    kernelCase('scale', `${a} -> ${y}`, (r) => ({
      y: output(y, 1003),
      x: input(a, r.difficult(1003)),
      n: 1003,
      alpha: 0.3,
    })),
  ]),
);

const inPlace: KernelCase[] = acts.flatMap((t) => [
  kernelCase('add', `${t}, into a`, (r) => ({
    y: sameAs('a'),
    a: input(t, r.normals(77)),
    b: input(t, r.normals(77)),
    n: 77,
  })),
  kernelCase('add', `${t}, into b`, (r) => ({
    y: sameAs('b'),
    a: input(t, r.normals(77)),
    b: input(t, r.normals(77)),
    n: 77,
  })),
  kernelCase('scale', `${t}, in place`, (r) => ({ y: sameAs('x'), x: input(t, r.normals(77)), n: 77, alpha: -2 })),
]);

const gelus: KernelCase[] = acts.flatMap((x) => [
  ...acts.flatMap((y) => [
    kernelCase(
      'gelu_forward',
      `${x} -> ${y}`,
      (r) => ({ y: output(y, 1003), x: input(x, r.normals(1003, 3)), n: 1003 }),
      { y: near(y) },
    ),
    kernelCase(
      'gelu_forward',
      `${x} -> ${y}, difficult`,
      () => ({ y: output(y, finiteSpecials.length), x: input(x, finiteSpecials), n: finiteSpecials.length }),
      { y: near(y) },
    ),
    kernelCase(
      'gelu_backward',
      `${x}, dy f32 -> ${y}`,
      (r) => ({
        dx: output(y, 1003),
        dy: input('f32', r.normals(1003)),
        x: input(x, r.normals(1003, 3)),
        n: 1003,
      }),
      { dx: near(y) },
    ),
    kernelCase(
      'gelu_backward',
      `${x}, dy bf16 -> ${y}, difficult`,
      () => ({
        dx: output(y, finiteSpecials.length),
        dy: input('bf16', new Float32Array(finiteSpecials.length).fill(1)),
        x: input(x, finiteSpecials),
        n: finiteSpecials.length,
      }),
      { dx: near(y) },
    ),
  ]),
  ...fp8.flatMap((y) => [
    kernelCase(
      'gelu_forward',
      `${x} -> ${y}, just in time`,
      (r) => ({ y: output(y, 1003), x: input(x, r.normals(1003)), n: 1003 }),
      { y: nearCodes },
    ),
    kernelCase(
      'gelu_forward',
      `${x} -> ${y}, cold window`,
      (r) => ({ y: output(y, 1003), x: input(x, r.normals(1003)), window: window(3, 2), n: 1003 }),
      { y: nearCodes, window: nearWindow },
    ),
    kernelCase(
      'gelu_forward',
      `${x} -> ${y}, warm window, saturating`,
      (r) => ({ y: output(y, 1003), x: input(x, r.normals(1003)), window: window(16, 2 ** 15, 0.5), n: 1003 }),
      { y: nearCodes, window: nearWindow },
    ),
  ]),
  kernelCase(
    'gelu_forward',
    `${x} -> e4m3, large (several threads)`,
    (r) => ({ y: output('e4m3', 70_001), x: input(x, r.normals(70_001)), window: window(16, 64), n: 70_001 }),
    { y: nearCodes, window: nearWindow },
  ),
]);

const swiglus: KernelCase[] = acts.flatMap((x) => [
  ...acts.flatMap((y) => [
    kernelCase(
      'swiglu_forward',
      `${x} -> ${y}`,
      (r) => ({ y: output(y, 21 * 37), x: input(x, r.normals(21 * 74, 3)), rows: 21, dim: 37 }),
      { y: near(y) },
    ),
    kernelCase(
      'swiglu_backward',
      `${x}, dy ${y} -> ${y}`,
      (r) => ({
        dx: output(y, 21 * 74),
        dy: input(y, r.normals(21 * 37)),
        x: input(x, r.normals(21 * 74, 3)),
        rows: 21,
        dim: 37,
      }),
      { dx: near(y) },
    ),
  ]),
  ...fp8.flatMap((y) => [
    kernelCase(
      'swiglu_forward',
      `${x} -> ${y}, just in time`,
      (r) => ({ y: output(y, 21 * 37), x: input(x, r.normals(21 * 74)), rows: 21, dim: 37 }),
      { y: nearCodes },
    ),
    kernelCase(
      'swiglu_forward',
      `${x} -> ${y}, warm window`,
      (r) => ({ y: output(y, 21 * 37), x: input(x, r.normals(21 * 74)), window: window(16, 8), rows: 21, dim: 37 }),
      { y: nearCodes, window: nearWindow },
    ),
  ]),
]);

const dropouts: KernelCase[] = acts.flatMap((y) => [
  kernelCase('dropout', `${y}, no residual`, (r) => ({
    y: output(y, 1003),
    x: input('f32', r.normals(1003)),
    n: 1003,
    rate: 0.1,
    seed: 5,
    stream: 3,
    offset: 0,
  })),
  kernelCase('dropout', `${y}, residual, odd offset beyond 2^34, wide seed and stream`, (r) => ({
    y: output(y, 1003),
    x: input('bf16', r.normals(1003)),
    residual: input(y, r.normals(1003)),
    n: 1003,
    rate: 0.5,
    seed: 2 ** 45 + 77,
    stream: 2 ** 33 + 5,
    offset: 2 ** 36 + 7,
  })),
  kernelCase('dropout', `${y}, into the residual`, (r) => ({
    y: sameAs('residual'),
    x: input(y, r.normals(301)),
    residual: input(y, r.normals(301)),
    n: 301,
    rate: 0.25,
    seed: 1,
    stream: 0,
    offset: 2,
  })),
  kernelCase('dropout', `${y}, rate 0`, (r) => ({
    y: output(y, 33),
    x: input(y, r.normals(33)),
    n: 33,
    rate: 0,
    seed: 1,
    stream: 0,
    offset: 0,
  })),
  kernelCase('dropout', `${y}, large`, (r) => ({
    y: output(y, 70_001),
    x: input(y, r.normals(70_001)),
    n: 70_001,
    rate: 0.1,
    seed: 9,
    stream: 4,
    offset: 1,
  })),
]);

const ropes: KernelCase[] = acts.flatMap((t) => {
  const turned = t === 'f32' ? close(0, 1e-6, 'float32 sines') : close(2 ** -7, 1e-6, 'one step of bf16');
  const shape = { rows: 14, batch: 2, heads: 4, kv_heads: 2, head_dim: 10, theta: 10000 };
  const size = 14 * 8 * 10;
  return [
    kernelCase(
      'rope',
      `${t}, grouped heads`,
      (r) => ({ y: output(t, size), x: input(t, r.normals(size)), ...shape, position: 0, inverse: 0 }),
      { y: turned },
    ),
    kernelCase(
      'rope',
      `${t}, inverse, in place, position 3000`,
      (r) => ({ y: sameAs('x'), x: input(t, r.normals(size)), ...shape, position: 3000, inverse: 1 }),
      { y: turned },
    ),
    ...[false, true].map((inPlace) =>
      kernelCase(
        'rope',
        `${t}, head_dim 32${inPlace ? ', in place, inverse' : ''}`,
        (r) => ({
          y: inPlace ? sameAs('x') : output(t, 6 * 5 * 32),
          x: input(t, r.normals(6 * 5 * 32)),
          rows: 6,
          batch: 2,
          heads: 3,
          kv_heads: 1,
          head_dim: 32,
          theta: 10000,
          position: 17,
          inverse: inPlace ? 1 : 0,
        }),
        { y: turned },
      ),
    ),
    kernelCase(
      'rope',
      `${t}, one kv head, theta 500000, head_dim 64`,
      (r) => ({
        y: output('f32', 5 * 5 * 64),
        x: input(t, r.normals(5 * 5 * 64)),
        rows: 5,
        batch: 1,
        heads: 3,
        kv_heads: 1,
        head_dim: 64,
        theta: 500000,
        position: 100,
        inverse: 0,
      }),
      { y: close(0, 1e-6, 'float32 sines') },
    ),
  ];
});

export const elementwiseCases: readonly KernelCase[] = [
  ...plain,
  ...inPlace,
  ...gelus,
  ...swiglus,
  ...dropouts,
  ...ropes,
];
