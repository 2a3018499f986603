import { describe, expect, it } from 'vitest';
import { relativeError } from '../../cases/gradients.ts';
import { rawBytes, tensorFrom, valuesOf } from '../../cases/tensors.ts';
import type { DType } from '../../dtype.ts';
import { normalAt } from '../../random.ts';
import { empty, type Tensor } from '../../tensor.ts';
import { referenceBackend } from '../reference.ts';

const ref = referenceBackend();
const k = ref.kernels;
const n = 64;
const normals = (stream: number, std = 1) => Float32Array.from({ length: n }, (_, i) => normalAt(8, stream, i) * std);
const hyper = { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
const control = (clip: number, skip: number, t: number) => tensorFrom(ref, 'f32', [clip, 1, skip, t]);

function state(w: DType, grad: DType, m: DType, v: DType, master: DType | null) {
  const weights = normals(1, 0.1);
  return {
    w: tensorFrom(ref, w, weights),
    master: master && tensorFrom(ref, master, weights, master === 'f16' ? 1024 : 1),
    grad: tensorFrom(ref, grad, normals(2, 0.01), grad === 'e4m3' ? 2048 : 1),
    m: tensorFrom(ref, m, new Float32Array(n)),
    v: tensorFrom(ref, v, new Float32Array(n)),
  };
}

/** AdamW as its paper writes it, in float64. */
function textbook(weights: Float32Array, grad: Float32Array, steps: number, clip: number): Float64Array {
  const p = Float64Array.from(weights);
  const [m, v] = [new Float64Array(n), new Float64Array(n)];
  for (let t = 1; t <= steps; t++) {
    for (let i = 0; i < n; i++) {
      const g = grad[i] * clip;
      m[i] = 0.9 * m[i] + 0.1 * g;
      v[i] = 0.95 * v[i] + 0.05 * g * g;
      const u = m[i] / (1 - 0.9 ** t) / (Math.sqrt(v[i] / (1 - 0.95 ** t)) + 1e-8);
      p[i] -= 1e-2 * 0.1 * p[i] + 1e-2 * u;
    }
  }
  return p;
}

describe('adamw', () => {
  it('in float32 is the paper, over 5 steps', () => {
    const s = state('f32', 'f32', 'f32', 'f32', null);
    const wanted = textbook(valuesOf(s.w), valuesOf(s.grad), 5, 0.5);
    for (let t = 1; t <= 5; t++) k.adamw({ ...s, control: control(0.5, 0, t), n, phase: 0, ...hyper });
    expect(relativeError(valuesOf(s.w), wanted)).toBeLessThan(1e-6);
  });

  it('with fp8 and half states stays near it', () => {
    const s = state('e4m3', 'e4m3', 'e4m3', 'f16', 'f16');
    const master = s.master ?? s.w;
    const wanted = textbook(valuesOf(master), valuesOf(s.grad), 5, 1);
    for (let t = 1; t <= 5; t++) k.adamw({ ...s, control: control(1, 0, t), n, phase: 0, ...hyper });
    // m in e4m3 errs by up to 1/16 a step, so u by about that; 5 steps of lr 1e-2 against weights of 0.3.
    expect(relativeError(valuesOf(master), wanted)).toBeLessThan(0.015);
    // The weight is the master, cast just in time.
    const again = empty(ref, [n], 'e4m3');
    k.quantize({ y: again, x: master, n, random: 0 });
    expect(rawBytes(s.w)).toEqual(rawBytes(again));
  });

  it('changes nothing in a step to skip', () => {
    const s = state('bf16', 'f32', 'f32', 'f32', 'f32');
    const before = [s.w, s.master ?? s.w, s.m, s.v].map(rawBytes);
    k.adamw({ ...s, control: control(1, 1, 3), n, phase: 0, ...hyper });
    expect([s.w, s.master ?? s.w, s.m, s.v].map(rawBytes)).toEqual(before);
  });
});

describe('adamw in phases', () => {
  const mixes: [DType, DType, DType, DType, DType | null][] = [
    ['f32', 'f32', 'f32', 'f32', null],
    ['bf16', 'f32', 'f32', 'f32', 'f32'],
    ['f16', 'e4m3', 'f32', 'f32', null],
    ['f16', 'e4m3', 'e4m3', 'f16', null],
    ['f32', 'f32', 'e4m3', 'f16', null],
    ['e4m3', 'e4m3', 'e4m3', 'f16', 'f16'],
  ];
  const part = (t: Tensor, begin: number, end: number): Tensor => {
    const copy = empty(ref, [end - begin], t.dtype);
    ref.copy(copy.handle, t.slice(begin, end).handle);
    return copy;
  };
  const parts = (s: ReturnType<typeof state>, begin: number, end: number) =>
    Object.fromEntries(Object.entries(s).map(([name, t]) => [name, t && part(t, begin, end)])) as typeof s;
  const bytes = (s: ReturnType<typeof state>) => [s.w, s.master ?? s.w, s.m, s.v].map(rawBytes);

  it.each(mixes)(
    '%s, %s, %s, %s, %s: measuring writes nothing but amaxes, and two phases give the bits of one',
    (...mix) => {
      const [one, two] = [state(...mix), state(...mix)];
      const amaxes = tensorFrom(ref, 'f32', [0, 0, 0]);
      for (let t = 1; t <= 4; t++) {
        const before = bytes(two);
        k.adamw({ ...one, control: control(0.5, 0, t), n, phase: 0, ...hyper });
        k.adamw({ ...two, control: control(0.5, 0, t), amaxes, n, phase: 1, ...hyper });
        expect(bytes(two)).toEqual(before);
        k.adamw({ ...two, control: control(0.5, 0, t), amaxes, n, phase: 2, ...hyper });
        expect(bytes(two)).toEqual(bytes(one));
      }
    },
  );

  it.each(mixes)('%s, %s, %s, %s, %s: two shards with shared amaxes are the halves of the whole', (...mix) => {
    const whole = state(...mix);
    const shards = [parts(whole, 0, 24), parts(whole, 24, n)];
    for (let t = 1; t <= 4; t++) {
      k.adamw({ ...whole, control: control(0.5, 0, t), n, phase: 0, ...hyper });
      const amaxes = shards.map((s) => {
        const own = tensorFrom(ref, 'f32', [0, 0, 0]);
        k.adamw({ ...s, control: control(0.5, 0, t), amaxes: own, n: s.w.size, phase: 1, ...hyper });
        return valuesOf(own);
      });
      const shared = tensorFrom(
        ref,
        'f32',
        amaxes[0].map((a, i) => Math.max(a, amaxes[1][i])),
      );
      for (const s of shards)
        k.adamw({ ...s, control: control(0.5, 0, t), amaxes: shared, n: s.w.size, phase: 2, ...hyper });
      for (const name of ['w', 'master', 'm', 'v'] as const) {
        const [a, b, all] = [shards[0][name], shards[1][name], whole[name]];
        if (a && b && all) expect([...valuesOf(a), ...valuesOf(b)]).toEqual([...valuesOf(all)]);
      }
    }
  });

  it('refuses a phase that is none, or that lacks its amaxes', () => {
    const s = state('f32', 'f32', 'f32', 'f32', null);
    const call = (phase: number) => () => k.adamw({ ...s, control: control(1, 0, 1), n, phase, ...hyper });
    expect(call(1)).toThrow('adamw: phase 1 needs amaxes');
    expect(call(3)).toThrow('adamw: phase is 3; expected 0, 1 or 2');
  });
});

it('clip_control: the norm, the coefficient, and a step counted only when finite', () => {
  const run = (sums: number[], max_norm: number) => {
    const c = tensorFrom(ref, 'f32', [0, 0, 0, 7]);
    k.clip_control({ control: c, sums: tensorFrom(ref, 'f32', sums), count: sums.length, max_norm });
    return Array.from(valuesOf(c));
  };
  expect(run([9, 16], 10)).toEqual([1, 5, 0, 8]);
  expect(run([9, 16], 1)).toEqual([Math.fround(1 / (5 + 1e-6)), 5, 0, 8]);
  expect(run([9, 16], 0)).toEqual([1, 5, 0, 8]);
  expect(run([9, Number.POSITIVE_INFINITY], 1).slice(1)).toEqual([Number.POSITIVE_INFINITY, 1, 7]);
  expect(run([Number.NaN], 1).slice(2)).toEqual([1, 7]);
});

it('sum_squares sees through scales', () => {
  const y = empty(ref, [1], 'f32');
  k.sum_squares({ y, x: tensorFrom(ref, 'e4m3', [1, -2, 3], 8), n: 3 });
  expect(valuesOf(y)[0]).toBe(14);
});

it('random_normal: any slice of a stream is the same numbers', () => {
  const draw = (offset: number, count: number) => {
    const y = empty(ref, [count], 'f32');
    k.random_normal({ y, n: count, std: 0.02, seed: 5, stream: 2 ** 40 + 3, offset });
    return valuesOf(y);
  };
  const whole = draw(0, 500);
  expect(draw(123, 50)).toEqual(whole.slice(123, 173));
  expect(whole[7]).toBe(Math.fround(normalAt(5, 2 ** 40 + 3, 7) * Math.fround(0.02)));
  const variance = whole.reduce((s, v) => s + v * v, 0) / 500;
  expect(Math.abs(Math.sqrt(variance) / 0.02 - 1)).toBeLessThan(0.15);
});
