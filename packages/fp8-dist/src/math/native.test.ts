import { type DType, dtypes } from 'fp8-core';
import { describe, expect, it } from 'vitest';
import { findAddon } from '../init.ts';
import type { ReduceOp } from './math.ts';
import { loadCommAddon, nativeMath } from './native.ts';
import { decode, encode, plainMath } from './plain.ts';

const addon = loadCommAddon(await findAddon());

/** Values of all magnitudes, with NaN, infinities, zeros of both signs and ties. */
function values(n: number, seed: number): Float32Array {
  const special = [NaN, Infinity, -Infinity, 0, -0, 448, 464, 480, 1e38, -1e-40, 2 ** -9, 2 ** -10, 1.0625];
  let x = seed;
  return Float32Array.from({ length: n }, (_, i) => {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    if (i % 11 === 0) return special[(x >>> 8) % special.length];
    return ((x & 1 ? 1 : -1) * (1 + (x >>> 9) / 2 ** 23) * 2 ** (((x >>> 3) % 24) - 12)) as number;
  });
}

describe.skipIf(!addon)('native arithmetic', () => {
  const native = addon ? nativeMath(addon) : plainMath;
  for (const dtype of ['f32', 'bf16', 'f16', 'e4m3', 'e5m2', 'i32'] as DType[]) {
    for (const op of ['sum', 'max', 'min'] as ReduceOp[]) {
      it(`reduces ${dtype} by ${op} like the plain one, to the bit`, () => {
        for (const [n, count, scale, steps] of [
          [1, 2, 1, false],
          [67, 3, 0.5, false],
          [1000, 4, 1, true],
          [4099, 7, 1 / 3, false],
        ] as const) {
          const parts = Array.from({ length: count }, (_, k) => {
            const v = values(n, 77 * k + n);
            return dtype === 'i32' ? new Uint8Array(Int32Array.from(v, (x) => (x * 1e5) | 0).buffer) : encode(v, dtype);
          });
          const [a, b] = [0, 1].map(() => new Uint8Array(n * dtypes[dtype].bytes));
          native.reduce(a, parts, dtype, op, scale, steps);
          plainMath.reduce(b, parts, dtype, op, scale, steps);
          const read = (y: Uint8Array) => (dtype === 'i32' ? new Int32Array(y.buffer) : decode(y, dtype));
          const [x, want] = [read(a), read(b)];
          // Object.is: zeros by sign; a NaN's sign is nobody's promise.
          const bad = x.findIndex((v, i) => !Object.is(v, want[i]));
          expect(bad, `element ${bad} of ${n} is ${x[bad]}, plain ${want[bad]}`).toBe(-1);
        }
      });
    }
  }
  for (const dtype of ['f16', 'e4m3', 'e5m2'] as DType[]) {
    it(`rescales ${dtype} like the plain one, to the bit`, () => {
      for (const ratio of [0.5, 2 ** -7, 2, 3.3]) {
        const src = encode(values(1003, 5), dtype);
        const [a, b] = [0, 1].map(() => new Uint8Array(src.length));
        native.rescale(a, src, dtype, ratio);
        plainMath.rescale(b, src, dtype, ratio);
        expect(Buffer.from(a).equals(Buffer.from(b))).toBe(true);
      }
    });
  }
  it('refuses views that do not match', () => {
    expect(() => native.reduce(new Uint8Array(8), [new Uint8Array(4)], 'f32', 'sum', 1, false)).toThrow(
      'part 0 has 4 bytes, dst 8',
    );
    expect(() => native.reduce(new Uint8Array(7), [new Uint8Array(7)], 'f32', 'sum', 1, false)).toThrow(
      'no whole number',
    );
    expect(() => native.rescale(new Uint8Array(8), new Uint8Array(4), 'f16', 1)).toThrow('src has 4 bytes, dst 8');
  });
});
