import { describe, expect, it } from 'vitest';
import { hash32, uniform } from './random.ts';

describe('counter-based random numbers', () => {
  it('is a pure function of its arguments, each of which counts', () => {
    const seen = new Set<number>();
    for (const seed of [0, 1, -1, 2 ** 32, 2 ** 40 + 1])
      for (const a of [0, 1, 2 ** 33]) for (const b of [0, 1, 7]) seen.add(hash32(seed, a, b));
    expect(seen.size).toBe(5 * 3 * 3);
    expect(hash32(3, 4, 5)).toBe(hash32(3, 4, 5));
  });

  it('is uniform: mean, variance, and 64 equal bins within 5 sigma', () => {
    const n = 64_000;
    const bins = new Float64Array(64);
    let sum = 0;
    let squares = 0;
    for (let i = 0; i < n; i++) {
      const u = uniform(42, i);
      expect(u >= 0 && u < 1).toBe(true);
      sum += u;
      squares += u * u;
      bins[Math.floor(u * 64)]++;
    }
    expect(Math.abs(sum / n - 0.5)).toBeLessThan(5 * Math.sqrt(1 / 12 / n));
    expect(Math.abs(squares / n - 1 / 3)).toBeLessThan(5 * Math.sqrt(4 / 45 / n));
    for (const bin of bins) expect(Math.abs(bin - 1000)).toBeLessThan(5 * Math.sqrt(1000));
  });

  it('flips half of the bits when one bit of the counter flips', () => {
    let flipped = 0;
    for (let i = 0; i < 2000; i++) {
      let difference = hash32(1, i) ^ hash32(1, i ^ (1 << (i % 16)));
      for (; difference !== 0; difference &= difference - 1) flipped++;
    }
    expect(flipped / 2000 / 32).toBeCloseTo(0.5, 1);
  });
});
