import { describe, expect, it } from 'vitest';
import type { Backend } from '../backend.ts';
import { nullBackend } from '../backends/null.ts';
import { referenceBackend } from '../backends/reference.ts';
import { type Kernels, kernelTable } from '../kernels.gen.ts';
import { acceptedMisuse, bits, CaseRandom, input, kernelCase, kernelCases, output, runCase } from './index.ts';

const kernels = Object.keys(kernelTable) as (keyof Kernels)[];

describe('the table', () => {
  it.each(kernels)('%s has cases, and they use each argument', (kernel) => {
    const cases = kernelCases.filter((c) => c.kernel === kernel);
    expect(cases.length, `no case for ${kernel}: add one to cases/table`).toBeGreaterThan(0);
    const used = new Map(kernelTable[kernel].map((p) => [p.name, new Set<string>()]));
    for (const c of cases) {
      const args = c.args(new CaseRandom(`${c.kernel}: ${c.name}`));
      for (const p of kernelTable[kernel]) {
        const arg = args[p.name];
        const spec = arg !== null && typeof arg === 'object' && arg.sameAs ? args[arg.sameAs] : arg;
        if (p.kind === 'tensor') used.get(p.name)?.add(spec && typeof spec === 'object' ? spec.dtype : 'none');
        else expect(typeof arg, `${kernel}, ${c.name}: ${p.name}`).toBe('number');
      }
      for (const name of [...Object.keys(args), ...Object.keys(c.compare)]) expect(used.has(name), name).toBe(true);
    }
    for (const p of kernelTable[kernel]) {
      for (const dtype of p.dtypes ?? []) {
        expect(used.get(p.name)?.has(dtype), `no case of ${kernel} has ${p.name} in ${dtype}`).toBe(true);
      }
      if (p.optional) expect(used.get(p.name)?.has('none'), `no case of ${kernel} leaves ${p.name} out`).toBe(true);
    }
  });

  it('names each case once', () => {
    const names = kernelCases.map((c) => `${c.kernel}: ${c.name}`);
    expect(names.filter((n, i) => names.indexOf(n) !== i)).toEqual([]);
  });

  it.each(kernels)('the reference implements %s, and it runs on every case', (kernel) => {
    const [ref, oracle] = [referenceBackend(), referenceBackend()];
    expect(ref.kernels[kernel], `the reference lacks ${kernel}`).toBeTypeOf('function');
    for (const c of kernelCases) if (c.kernel === kernel) runCase(c, ref, oracle, { offset: 3 });
  });
});

describe('runCase', () => {
  const c = kernelCase('scale', 'test', () => ({ y: output('f32', 3), x: input('f32', [1, 2, 3]), n: 3, alpha: 2 }), {
    y: bits(),
  });

  /** A reference whose `scale` does something else. */
  function broken(scale: (ref: Backend, args: Parameters<Kernels['scale']>[0]) => void): Backend {
    const ref = referenceBackend();
    return { ...ref, kernels: { ...ref.kernels, scale: (args) => scale(ref, args) } };
  }

  it('names the element that differs', () => {
    const off = broken((ref, { y, x, n }) => {
      ref.kernels.scale({ y, x, n, alpha: 2 });
      ref.kernels.fill({ y: y.slice(1, 2), n: 1, value: 5 });
    });
    expect(() => runCase(c, off, referenceBackend())).toThrow(
      'y f32[3]: 1 of 3 elements differ in bits; first [1]: got 5 (0x40a00000), want 4 (0x40800000)',
    );
  });

  it('sees changed inputs, writes beyond the tensor and bytes left behind', () => {
    const changing = broken((ref, a) => {
      ref.kernels.scale(a);
      ref.kernels.scale({ ...a, y: a.x });
    });
    expect(() => runCase(c, changing, referenceBackend())).toThrow('x f32[3]: the input was changed');
    const overrunning = broken((ref, a) => {
      ref.kernels.scale(a);
      ref.kernels.fill({ y: a.y.base ?? a.y, n: 4, value: 0 });
    });
    expect(() => runCase(c, overrunning, referenceBackend())).toThrow('byte 12 was written, but the tensor has 12');
    const leaking = broken((ref, a) => {
      ref.kernels.scale(a);
      ref.alloc('f32', 4);
    });
    expect(() => runCase(c, leaking, referenceBackend())).toThrow('left 16 bytes behind');
  });
});

it.each([
  ['ref', referenceBackend],
  ['null', nullBackend],
] as const)('%s refuses every wrong argument by name', (_, make) => {
  expect(acceptedMisuse(make())).toEqual([]);
});
