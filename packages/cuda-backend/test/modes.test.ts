// What the simulated device finds, with kernels that are wrong on purpose as controls; the case table in race mode; our own
// matrix products; CUDA graphs.
import { empty, referenceBackend, scope } from 'fp8-core';
import { CaseRandom, kernelCases, runCase } from 'fp8-core/cases';
import { afterEach, describe, expect, it } from 'vitest';
import type { CudaBackend } from '../src/backend.ts';
import { simulator } from './simulator.ts';

const { cuda, reason } = simulator();
const device = cuda as CudaBackend;
const ref = referenceBackend();

describe.skipIf(!cuda)(`the simulated device ${reason}`, () => {
  afterEach(() => {
    device.races(false);
    device.ownGemm(false);
  });

  it.each([
    ['out of bounds', 'faulty, block 1, thread 0: out of bounds: y[64], but it has 64 elements'],
    ['shared bounds', 'faulty, block 0, thread 31: out of bounds: shared tile[32], but it has 32 elements'],
    ['misaligned', 'faulty, block 0, thread 0: misaligned: y[1] lies 4 bytes after a multiple of 16'],
    [
      'divergent',
      /faulty, block 0, thread \d+: divergent barrier: thread waits at __syncthreads in line \d+, thread \d+ in line \d+/,
    ],
    ['left early', /divergent barrier: thread waits at __syncthreads in faulty.cu:\d+, but 1 of 32 threads have ended/],
    ['warp left', /divergent warp: .*but 1 of 32 threads have ended/],
  ])('names the fault of a kernel that is %s', (kind, message) => {
    expect(() => device.faulty(kind)).toThrow(message);
    device.faulty('barrier'); // and goes on afterwards
  });

  it.each([
    [
      'missing barrier',
      /race: (reads|writes) shared tile\[\d+\], which thread \d+ (writes|reads) with no barrier between/,
    ],
    ['lost update', /race: (reads|writes) y\[0\], which block \d, thread 0 (writes|reads) with no barrier between/],
  ])('in race mode finds a %s, in every order', (kind, message) => {
    for (const seed of [1, 2, 3]) {
      device.races(true, seed);
      expect(() => device.faulty(kind)).toThrow(message);
    }
  });

  it.each(['barrier', 'counted'])('in race mode finds nothing in a kernel with a %s', (kind) => {
    for (const seed of [1, 2, 3]) {
      device.races(true, seed);
      device.faulty(kind);
    }
  });

  const names = Array.from(new Set(kernelCases.map((c) => c.kernel)));
  // Every case with SIM=all; else those of up to 3000 elements, eight a kernel.
  const smallCases = (kernel: string) => {
    const all = kernelCases.filter((c) => c.kernel === kernel);
    if (process.env.SIM === 'all') return all;
    const size = (c: (typeof all)[number]) => {
      const specs = Object.values(c.args(new CaseRandom(`${c.kernel}: ${c.name}`)));
      return specs.reduce((n: number, s) => n + (s && typeof s === 'object' ? s.size : 0), 0);
    };
    const small = all.filter((c) => size(c) <= 3000);
    const step = Math.max(1, Math.ceil(small.length / 8));
    return small.filter((_, i) => i % step === 0);
  };

  it.each(names)('%s is free of races, and gives the same in a shuffled order', (kernel) => {
    device.races(true, 5);
    for (const c of smallCases(kernel)) runCase(c, device, ref, { offset: 0 });
  });

  it('our own products, without races, agree with the reference', () => {
    device.ownGemm(true);
    const before = device.gemms();
    const cases = kernelCases.filter((c) => c.kernel === 'gemm');
    cases.forEach((c, i) => {
      device.races(i % 9 === 0, i + 1);
      if (i % 3 === 0) runCase(c, device, ref, { offset: i % 2 ? 3 : 0 });
    });
    const after = device.gemms();
    expect(after.own).toBeGreaterThan(before.own + 40);
    expect([after.fp8, after.library]).toEqual([before.fp8, before.library]);
  });

  it('sends FP8 products to cuBLASLt in FP8, and what it refuses elsewhere', () => {
    const run = (a: 'e4m3' | 'e5m2' | 'bf16', b: 'e4m3' | 'e5m2' | 'bf16') =>
      scope(() => {
        const before = device.gemms();
        const [x, w, y] = [empty(device, [48 * 32], a), empty(device, [16 * 32], b), empty(device, [48 * 16], 'f32')];
        for (const t of [x, w]) device.kernels.fill({ y: t, n: t.size, value: 0.5 });
        const shape = { m: 48, n: 16, k: 32, trans_a: 0, trans_b: 1, accumulate: 0, compute_f32: 0, alpha: 1 };
        device.kernels.gemm({ c: y, a: x, b: w, ...shape });
        const sums = new Float32Array(y.size);
        device.read(y.handle, new Uint8Array(sums.buffer));
        expect(new Set(sums)).toEqual(new Set([8]));
        const after = device.gemms();
        return (['fp8', 'library', 'own'] as const).filter((k) => after[k] > before[k]);
      });
    expect(run('e4m3', 'e4m3')).toEqual(['fp8']);
    expect(run('e5m2', 'e4m3')).toEqual(['fp8']);
    expect(run('e5m2', 'e5m2')).toEqual(['library']); // decoded to bf16
    expect(run('bf16', 'e4m3')).toEqual(['library']);
  });
});
