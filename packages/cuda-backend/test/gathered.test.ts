// Calls that are gathered into one launch: in the order of the calls, whatever they touch.
import { type Backend, type DType, dtypes, empty, referenceBackend, scope, type Tensor } from 'fp8-core';
import { CaseRandom } from 'fp8-core/cases';
import { afterEach, describe, expect, it } from 'vitest';
import type { CudaBackend } from '../src/backend.ts';
import { simulator } from './simulator.ts';

const { cuda, reason } = simulator();
const device = cuda as CudaBackend;

/** Everything that a few optimizer steps over tensors of several dtypes leave behind. */
function run(backend: Backend): Uint8Array[] {
  const { kernels: k } = backend;
  return scope(() => {
    const random = new CaseRandom('gathered');
    const filled = (dtype: DType, n: number, std: number): Tensor => {
      const x = empty(backend, [n], 'f32');
      const values = random.normals(n, std);
      backend.write(x.handle, new Uint8Array(values.buffer));
      if (dtype === 'f32') return x;
      const y = empty(backend, [n], dtype);
      if (dtypes[dtype].scaled) k.quantize({ y, x, n, random: 0 });
      else k.cast({ y, x, n, random: 0 });
      return y;
    };
    const control = empty(backend, [4], 'f32');
    backend.write(control.handle, new Uint8Array(Float32Array.of(1, 1, 0, 0).buffer));
    const sums = empty(backend, [8], 'f32');
    k.fill({ y: sums, n: 8, value: 0 });
    const mu = empty(backend, [1], 'f32');
    k.fill({ y: mu, n: 1, value: 1 });
    const states = (['f16', 'f16', 'f32', 'f32', 'f16', 'f32'] as const).map((w, i) => {
      const n = [16400, 3, 1000, 64, 777, 5][i];
      const small = i < 3;
      return {
        w: filled(w, n, 0.05),
        grad: filled(w === 'f16' ? 'e4m3' : 'f32', n, 1e-2),
        m: filled(small ? 'e4m3' : 'f32', n, 1e-3),
        v: filled(small ? 'f16' : 'f32', n, 0),
      };
    });
    const hyper = { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    for (let step = 0; step < 2; step++) {
      states.forEach(({ grad }, i) => k.sum_squares({ y: sums.slice(i, i + 1), x: grad, n: grad.size }));
      // Reads what the calls before it write, and is read by the next.
      k.sum_squares({ y: sums.slice(6, 7), x: sums, n: 6 });
      k.sum_squares({ y: sums.slice(7, 8), x: sums, n: 7 });
      k.clip_control({ control, sums, count: 8, max_norm: 1 });
      for (const s of states) k.adamw({ ...s, control, n: s.w.size, phase: 0, lr: 1e-2, ...hyper });
      for (const { grad } of states)
        if (grad.dtype === 'e4m3') k.mu_update({ mu, x: grad, n: grad.size, threshold: 1e-4, growth: 1.01 });
      // The same tensors again, and another learning rate.
      for (const s of [states[0], states[0], states[3]])
        k.adamw({ ...s, control, n: s.w.size, phase: 0, lr: 1e-3, ...hyper });
      // A gradient that was an earlier call's weight.
      k.adamw({ ...states[3], grad: states[2].w, control, n: 64, phase: 0, lr: 1e-3, ...hyper });
    }
    return states.flatMap(({ w, m, v }) =>
      [w, m, v, mu].flatMap((t) => {
        const bytes = new Uint8Array(t.size * dtypes[t.dtype].bytes);
        backend.read(t.handle, bytes);
        return dtypes[t.dtype].scaled ? [bytes, new Uint8Array(backend.readScale(t.handle).buffer)] : [bytes];
      }),
    );
  });
}

describe.skipIf(!cuda)(`calls that follow each other ${reason}`, () => {
  afterEach(() => {
    device.useGraphs(false);
    device.races(false);
  });

  it.each([
    ['one by one', () => undefined],
    ['in a graph', () => device.useGraphs(true)],
    ['in a shuffled order', () => device.races(true, 3)],
  ])('give what the reference gives, %s', (_, prepare) => {
    const want = run(referenceBackend());
    prepare();
    expect(run(device)).toEqual(want);
  });
});
