import { UserError } from 'fp8-core';
import { describe, expect, it } from 'vitest';
import { type CpuBackend, cpuBackend } from '../src/backend.ts';

let cpu: CpuBackend | null = null;
let reason = '';
try {
  cpu = cpuBackend();
} catch (error) {
  if (!(error instanceof UserError)) throw error;
  reason = ` (skipped: ${error.message})`;
}

describe.skipIf(!cpu)(`memory of the CPU backend${reason}`, () => {
  const backend = cpu as CpuBackend;

  it('throws at a freed handle, also when its slot is in use again', () => {
    const old = backend.alloc('f32', 4);
    backend.free(old);
    expect(() => backend.free(old)).toThrow(RangeError);
    const next = backend.alloc('f32', 4);
    expect(next).not.toBe(old);
    expect(() => backend.read(old, new Uint8Array(16))).toThrow('freed');
    for (const handle of [-1, 1.5, Number.NaN, 99]) expect(() => backend.free(handle)).toThrow(RangeError);
    backend.free(next);
  });

  it('keeps bytes and scale until the last view goes', () => {
    const before = backend.memory().live;
    const a = backend.alloc('e4m3', 1000);
    backend.write(
      a,
      new Uint8Array(1000).map((_, i) => i),
    );
    backend.writeScale(a, Float32Array.of(2, 0.5, 3, 4));
    const view = backend.view(a, 100, 50);
    const inner = backend.view(view, 10, 5);
    backend.free(a);
    backend.free(view);
    expect(backend.memory().live).toBeGreaterThan(before);
    const other = backend.alloc('e4m3', 1000);
    backend.write(other, new Uint8Array(1000));
    const bytes = new Uint8Array(5);
    backend.read(inner, bytes);
    expect(Array.from(bytes)).toEqual([110, 111, 112, 113, 114]);
    expect(Array.from(backend.readScale(inner))).toEqual([2, 0.5, 3, 4]);
    backend.free(inner);
    backend.free(other);
    expect(backend.memory().live).toBe(before);
  });

  it('starts a scale block at 1, copies it with the bytes, and refuses what does not fit', () => {
    const [a, b] = [backend.alloc('f16', 3), backend.alloc('f16', 3)];
    expect(Array.from(backend.readScale(a))).toEqual([1, 1, 0, 0]);
    backend.write(a, new Uint8Array(6).fill(7));
    backend.writeScale(a, Float32Array.of(8, 0.125, 1, 0));
    backend.copy(b, a);
    const bytes = new Uint8Array(6);
    backend.read(b, bytes);
    expect(Array.from(bytes)).toEqual([7, 7, 7, 7, 7, 7]);
    expect(Array.from(backend.readScale(b))).toEqual([8, 0.125, 1, 0]);
    const wide = backend.alloc('f32', 3);
    expect(() => backend.copy(wide, a)).toThrow('f16[3] to f32[3]');
    expect(() => backend.readScale(wide)).toThrow('no scale block');
    expect(() => backend.write(a, new Uint8Array(5))).toThrow('5 bytes');
    expect(() => backend.view(a, 2, 2)).toThrow(RangeError);
    expect(() => backend.alloc('f32', -1)).toThrow(RangeError);
    for (const handle of [a, b, wide]) backend.free(handle);
    const again = backend.alloc('f16', 3);
    expect(Array.from(backend.readScale(again))).toEqual([1, 1, 0, 0]);
    backend.free(again);
  });

  it('gives idle memory back on trim', () => {
    const big = backend.alloc('u8', 64 << 20);
    backend.free(big);
    backend.trim();
    const { live, reserved, peak } = backend.memory();
    expect(reserved).toBeLessThan(64 << 20);
    expect(live).toBeLessThanOrEqual(reserved);
    expect(peak).toBeGreaterThanOrEqual(64 << 20);
    backend.resetPeak();
    expect(backend.memory().peak).toBe(live);
  });
});
