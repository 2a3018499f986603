import { describe, expect, it } from 'vitest';
import { tensorFrom, valuesOf } from '../cases/tensors.ts';
import { empty } from '../tensor.ts';
import { nullBackend } from './null.ts';
import { referenceBackend } from './reference.ts';

describe.each([
  ['ref', referenceBackend],
  ['null', nullBackend],
] as const)('%s', (_, make) => {
  it('throws at a freed handle, also when its slot is in use again', () => {
    const backend = make();
    const old = backend.alloc('f32', 4);
    backend.free(old);
    expect(() => backend.free(old)).toThrow(RangeError);
    const next = backend.alloc('f32', 4);
    expect(next).not.toBe(old);
    expect(() => backend.read(old, new Uint8Array(16))).toThrow(`read: no tensor has handle ${old}; was it freed?`);
    for (const handle of [-1, 1.5, Number.NaN, 99]) expect(() => backend.free(handle)).toThrow(RangeError);
  });

  it('counts bytes, live and peak, and a block until its last view goes', () => {
    const backend = make();
    const a = backend.alloc('f32', 10);
    const b = backend.alloc('e4m3', 7);
    const view = backend.view(a, 2, 3);
    const inner = backend.view(view, 1, 2);
    backend.free(a);
    expect(backend.memory().live).toBe(47);
    backend.free(view);
    expect(backend.memory().live).toBe(47);
    backend.free(inner);
    backend.free(b);
    expect(backend.memory()).toMatchObject({ live: 0, peak: 47 });
    backend.resetPeak();
    expect(backend.memory().peak).toBe(0);
  });

  it('refuses views, writes and copies that do not fit', () => {
    const backend = make();
    const a = backend.alloc('bf16', 4);
    expect(() => backend.view(a, 2, 3)).toThrow(new RangeError('view: elements [2, 5) of bf16[4]'));
    expect(() => backend.view(a, -1, 1)).toThrow(RangeError);
    expect(() => backend.write(a, new Uint8Array(7))).toThrow(new RangeError('write: 7 bytes, but bf16[4] has 8'));
    expect(() => backend.copy(a, backend.alloc('bf16', 5))).toThrow('to is bf16[4] but from is bf16[5]');
    expect(() => backend.readScale(a)).toThrow('bf16 tensors carry no scale block');
    expect(() => backend.writeScale(backend.alloc('f16', 1), new Float32Array(3))).toThrow(RangeError);
    expect(() => backend.alloc('f33' as never, 1)).toThrow(TypeError);
    expect(() => backend.alloc('f32', -1)).toThrow(RangeError);
  });

  it('says in the message how the size came about', () => {
    const backend = make();
    const c = empty(backend, [16 * 24], 'f32');
    const a = empty(backend, [16 * 32], 'f32');
    const b = empty(backend, [512], 'f32');
    const call = () =>
      backend.kernels.gemm({
        c,
        a,
        b,
        m: 16,
        n: 24,
        k: 32,
        trans_a: 0,
        trans_b: 0,
        accumulate: 0,
        compute_f32: 1,
        alpha: 1,
      });
    expect(call).toThrow(new RangeError('gemm: b is f32[512] but needs 768 elements (k*n = 32*24)'));
  });
});

it('the null backend reads zeros and keeps no bytes', () => {
  const backend = nullBackend();
  const t = empty(backend, [1 << 30, 1 << 10], 'f32');
  expect(backend.memory()).toEqual({ live: 2 ** 42, peak: 2 ** 42, reserved: 0 });
  t.release();
  const small = tensorFrom(backend, 'f32', [1, 2]);
  backend.kernels.scale({ y: small, x: small, n: 2, alpha: 3 });
  expect(Array.from(valuesOf(small))).toEqual([0, 0]);
});

it('views of the reference backend share bytes and the scale block', () => {
  const backend = referenceBackend();
  const t = tensorFrom(backend, 'e4m3', [1, 2, 3, 4], 2);
  const view = t.slice(1, 3);
  expect(Array.from(valuesOf(view))).toEqual([2, 3]);
  backend.kernels.quantize({ y: view, x: tensorFrom(backend, 'f32', [100, 200]), n: 2, random: 0 });
  expect(Array.from(valuesOf(view))).toEqual([96, 192]);
  expect(backend.readScale(t.handle)).toEqual(backend.readScale(view.handle));
  const other = tensorFrom(backend, 'e4m3', [0, 0, 0, 0]);
  backend.copy(other.handle, t.handle);
  expect(valuesOf(other)).toEqual(valuesOf(t));
});
