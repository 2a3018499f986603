import { describe, expect, it } from 'vitest';
import { hashName, highWord, normalAt, philox, randomUniform, randomWord } from './random.ts';

describe('philox', () => {
  // Known answers of the Random123 distribution (kat_vectors, philox4x32 with 10 rounds).
  it.each([
    [
      [0, 0, 0, 0],
      [0, 0],
      [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
    ],
    [
      [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
    ],
    [
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xa4093822, 0x299f31d0],
      [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    ],
  ])('counter %j, key %j', (counter, key, expected) => {
    const out = new Uint32Array(4);
    philox(counter[0], counter[1], counter[2], counter[3], key[0], key[1], out);
    expect(Array.from(out)).toEqual(expected);
  });

  it('agrees with 64-bit integer arithmetic on random counters', () => {
    const slow = (c: bigint[], k: bigint[]): number[] => {
      const mask = 0xffffffffn;
      for (let r = 0; r < 10; r++) {
        const p0 = 0xd2511f53n * c[0];
        const p1 = 0xcd9e8d57n * c[2];
        c = [(p1 >> 32n) ^ c[1] ^ k[0], p1 & mask, (p0 >> 32n) ^ c[3] ^ k[1], p0 & mask];
        k = [(k[0] + 0x9e3779b9n) & mask, (k[1] + 0xbb67ae85n) & mask];
      }
      return c.map(Number);
    };
    const out = new Uint32Array(4);
    let state = 1;
    const next = () => {
      state = Math.imul(state, 1664525) + 1013904223;
      return state >>> 0;
    };
    for (let i = 0; i < 200; i++) {
      const n = [next(), next(), next(), next(), next(), next()];
      philox(n[0], n[1], n[2], n[3], n[4], n[5], out);
      expect(Array.from(out)).toEqual(slow(n.slice(0, 4).map(BigInt), n.slice(4).map(BigInt)));
    }
  });
});

describe('streams', () => {
  it('separates seeds, streams and indices beyond 32 bits', () => {
    const seen = new Set<number>();
    for (const seed of [1, 1 + 2 ** 32, 2 ** 52]) {
      for (const stream of [0, 2 ** 32]) {
        for (const index of [0, 1, 4, 2 ** 34, 2 ** 34 + 1, 2 ** 50]) seen.add(randomWord(seed, stream, index));
      }
    }
    expect(seen.size).toBe(36);
    expect([highWord(2 ** 32 * 5 + 1), highWord(-1)]).toEqual([5, 0xffffffff]);
  });

  it('is uniform: mean, variance and range', () => {
    const n = 20_000;
    let sum = 0;
    let squares = 0;
    for (let i = 0; i < n; i++) {
      const u = randomUniform(5, 9, i);
      expect(u >= 0 && u < 1).toBe(true);
      sum += u;
      squares += (u - 0.5) ** 2;
    }
    expect(Math.abs(sum / n - 0.5)).toBeLessThan((5 * Math.sqrt(1 / 12)) / Math.sqrt(n));
    expect(Math.abs(squares / n - 1 / 12)).toBeLessThan(0.004);
  });

  it('is normal: mean 0, variance 1, fourth moment 3 (2.85 for a sum of eight)', () => {
    const n = 20_000;
    const moments = [0, 0, 0, 0];
    for (let i = 0; i < n; i++) {
      const x = normalAt(1, 2, i);
      for (let k = 0; k < 4; k++) moments[k] += x ** (k + 1) / n;
    }
    expect(Math.abs(moments[0])).toBeLessThan(5 / Math.sqrt(n));
    expect(Math.abs(moments[1] - 1)).toBeLessThan(0.05);
    expect(Math.abs(moments[2])).toBeLessThan(0.15);
    expect(Math.abs(moments[3] - (3 - 1.2 / 8))).toBeLessThan(0.25);
  });

  it('names hash to distinct safe integers, always the same', () => {
    const names = Array.from({ length: 500 }, (_, i) => `h.${i}.mlp.fc.weight`);
    const hashes = new Set(names.map(hashName));
    expect(hashes.size).toBe(500);
    expect(Array.from(hashes).every(Number.isSafeInteger)).toBe(true);
    // 64-bit FNV-1a of "" and "a" from its authors' page, folded to 53 bits.
    const fold = (h: bigint) => Number(BigInt.asUintN(53, h ^ (h >> 53n)));
    expect(hashName('')).toBe(fold(0xcbf29ce484222325n));
    expect(hashName('a')).toBe(fold(0xaf63dc4c8601ec8cn));
  });
});
