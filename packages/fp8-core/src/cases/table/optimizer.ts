import { dtypes, type FloatDType } from '../../dtype.ts';
import { type CaseRandom, close, input, type KernelCase, kernelCase, output, type TensorSpec } from '../case.ts';

/** The dtypes of one parameter's optimizer step. */
interface States {
  w: FloatDType;
  master: FloatDType | null;
  grad: FloatDType;
  m: FloatDType;
  v: FloatDType;
}

const floats: readonly FloatDType[] = ['f32', 'bf16', 'f16', 'e4m3', 'e5m2'];

/** As the recipes have them; then every dtype in every place once. */
const recipes: Record<string, States> = {
  fp32: { w: 'f32', master: null, grad: 'f32', m: 'f32', v: 'f32' },
  bf16: { w: 'bf16', master: 'f32', grad: 'f32', m: 'f32', v: 'f32' },
  o1: { w: 'f16', master: null, grad: 'e4m3', m: 'f32', v: 'f32' },
  o2: { w: 'f16', master: null, grad: 'e4m3', m: 'e4m3', v: 'f16' },
  'o2 embedding': { w: 'f32', master: null, grad: 'f32', m: 'e4m3', v: 'f16' },
  o3: { w: 'e4m3', master: 'f16', grad: 'e4m3', m: 'e4m3', v: 'f16' },
  ...Object.fromEntries(
    floats.map((w, i) => {
      const [master, grad, m, v] = [1, 2, 3, 4].map((k) => floats[(i + k) % 5]);
      return [`${w} ${master} ${grad} ${m} ${v}`, { w, master, grad, m, v }];
    }),
  ),
};

const state = (dtype: FloatDType, values: Float32Array, scale: number): TensorSpec =>
  input(dtype, values, dtypes[dtype].scaled ? scale : 1);

interface Step {
  n: number;
  clip?: number;
  skip?: boolean;
  step?: number;
  /** Fresh states: m and v all zero. */
  fresh?: boolean;
  weightDecay?: number;
  gradient?: (r: CaseRandom, n: number) => Float32Array;
  /** Added to m's values: NaN for a moment that is lost. */
  spoil?: number;
  phase?: number;
  amaxes?: readonly number[];
  /** Every state and the gradient at the ends of their formats, zeros of both signs among them. */
  ends?: boolean;
  /** Powers of two by which the states are smaller. */
  smaller?: number;
  /** What the scales are times the powers of two that casts choose. */
  oddly?: number;
}

/** Values whose codes at a scale are anything: from below the smallest to the largest, and zeros of both signs. */
const anything = (r: CaseRandom, n: number, scale: number): Float32Array =>
  r.wide(n, -28, 16).map((x, i) => (i % 5 === 0 ? 0 : i % 7 === 0 ? -0 : x / scale));

function adamw(name: string, s: States, o: Step): KernelCase {
  const { n } = o;
  const by = 2 ** (o.smaller ?? 0);
  const odd = o.oddly ?? 1;
  const scales = { p: 1024 * odd, grad: 2 ** 15 * by * odd, m: 2 ** 16 * by * odd, v: 2 ** 22 * by * by * odd };
  const first = (r: CaseRandom): Float32Array =>
    o.fresh ? new Float32Array(n) : o.ends ? anything(r, n, scales.m) : r.normals(n, 1e-3 / by);
  const second = (r: CaseRandom): Float32Array =>
    o.fresh
      ? new Float32Array(n)
      : o.ends
        ? anything(r, n, scales.v).map(Math.abs)
        : r.normals(n, 1e-3 / by).map((x) => x * x);
  const weights = (r: CaseRandom): Float32Array => (o.ends ? anything(r, n, scales.p) : r.normals(n, 0.05));
  return kernelCase('adamw', name, (r) => ({
    w: state(s.w, weights(r), scales.p),
    master: s.master && state(s.master, weights(r), scales.p),
    grad: state(
      s.grad,
      o.gradient?.(r, n) ?? (o.ends ? anything(r, n, scales.grad) : r.normals(n, 1e-3 / by)),
      scales.grad,
    ),
    m: state(
      s.m,
      first(r).map((x, i) => (i === 70 ? x + (o.spoil ?? 0) : x)),
      scales.m,
    ),
    v: state(s.v, second(r), scales.v),
    control: input('f32', [o.clip ?? 1, 1, o.skip ? 1 : 0, o.step ?? 3]),
    amaxes: o.amaxes ? input('f32', o.amaxes) : null,
    n,
    phase: o.phase ?? 0,
    lr: 3e-4,
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    weight_decay: o.weightDecay ?? 0.1,
  }));
}

const steps: KernelCase[] = Object.entries(recipes).flatMap(([name, s]) => [
  adamw(`${name}, first step`, s, { n: 1003, step: 1, fresh: true }),
  adamw(`${name}, clipped, later step`, s, { n: 1003, clip: 0.37, step: 1234 }),
  adamw(`${name}, skipped`, s, { n: 77, skip: true, gradient: (r, n) => r.normals(n).fill(Number.NaN, 3, 5) }),
  adamw(`${name}, zero gradients on fresh states`, s, {
    n: 33,
    step: 1,
    fresh: true,
    gradient: (_, n) => new Float32Array(n),
  }),
  adamw(`${name}, gradients over many powers of two`, s, { n: 517, gradient: (r, n) => r.wide(n, -40, 10) }),
  adamw(`${name}, large (several threads)`, s, { n: 40_003, weightDecay: 0 }),
  adamw(`${name}, one moment NaN`, s, { n: 200, spoil: Number.NaN }),
  adamw(`${name}, codes from end to end`, s, { n: 4099, ends: true, clip: 0.71, step: 17 }),
  adamw(`${name}, codes from end to end, tiny states`, s, { n: 4099, ends: true, smaller: 25, step: 17 }),
  adamw(`${name}, tiny states`, s, { n: 1003, smaller: 12, step: 300 }),
  adamw(`${name}, scales that are no powers of two`, s, { n: 1003, oddly: 0.81, step: 40 }),
  // A shard of a larger tensor: measured, then stored with the amaxes of the whole.
  adamw(`${name}, measured`, s, { n: 4099, phase: 1, amaxes: [7, 8, 9] }),
  adamw(`${name}, measured, one moment NaN`, s, { n: 200, phase: 1, amaxes: [7, 8, 9], spoil: Number.NaN }),
  adamw(`${name}, measured, skipped`, s, { n: 33, phase: 1, amaxes: [7, 8, 9], skip: true }),
  adamw(`${name}, applied`, s, { n: 4099, phase: 2, amaxes: [0.7, 0.02, 1e-4] }),
  adamw(`${name}, applied, another shard overflowed`, s, {
    n: 200,
    phase: 2,
    amaxes: [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY, 1e-4],
  }),
]);

const sumOfSquares = close(1e-6, 0, 'float64 sums in another order');

const others: KernelCase[] = [
  ...floats.flatMap((x) => [
    kernelCase('sum_squares', x, (r) => ({ y: output('f32', 1), x: state(x, r.normals(1003), 16), n: 1003 }), {
      y: sumOfSquares,
    }),
    kernelCase(
      'sum_squares',
      `${x}, large`,
      (r) => ({ y: output('f32', 1), x: state(x, r.normals(70_003), 16), n: 70_003 }),
      { y: sumOfSquares },
    ),
    kernelCase('sum_squares', `${x}, with a NaN`, () => ({
      y: output('f32', 1),
      x: input(x, [1, Number.NaN, 2]),
      n: 3,
    })),
  ]),
  kernelCase('sum_squares', 'squares beyond float32', () => ({
    y: output('f32', 1),
    x: input('f32', [1e25, 1]),
    n: 2,
  })),
  ...[
    { name: 'below the limit', sums: [0.1, 0.2, 0.003], max_norm: 1 },
    { name: 'above it', sums: [10, 20, 0.3], max_norm: 1 },
    { name: 'no limit', sums: [10, 20, 0.3], max_norm: 0 },
    { name: 'all zero', sums: [0, 0], max_norm: 1 },
    { name: 'one infinite', sums: [1, Number.POSITIVE_INFINITY], max_norm: 1 },
    { name: 'one NaN', sums: [1, Number.NaN, 3], max_norm: 1 },
    { name: 'many', sums: Array.from({ length: 300 }, (_, i) => 1 / (i + 1)), max_norm: 0.5 },
  ].map(({ name, sums, max_norm }) =>
    kernelCase('clip_control', name, () => ({
      control: input('f32', [9, 9, 9, 41]),
      sums: input('f32', sums),
      count: sums.length,
      max_norm,
    })),
  ),
  ...[
    { n: 1, offset: 0, seed: 0, stream: 0 },
    { n: 1003, offset: 0, seed: 1234, stream: 2 ** 52 + 99 },
    { n: 517, offset: 2 ** 32 - 100, seed: 2 ** 50 + 3, stream: 7 },
    { n: 70_001, offset: 13, seed: 42, stream: 5 },
  ].map((a) => kernelCase('random_normal', JSON.stringify(a), () => ({ y: output('f32', a.n), std: 0.02, ...a }))),
];

export const optimizerCases: readonly KernelCase[] = [...steps, ...others];
