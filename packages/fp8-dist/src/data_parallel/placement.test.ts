import { makeShard, modelContext, Parameter, recipeNamed, referenceBackend } from 'fp8-core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { vocabRange } from '../layers/parallel.ts';
import { cutIntoBuckets } from './bucket.ts';
import { placePieces } from './pieces.ts';
import { placeWhole } from './placement.ts';

const loadsOf = (sizes: readonly number[], owners: readonly number[], ranks: number): number[] => {
  const loads: number[] = Array(ranks).fill(0);
  sizes.forEach((size, i) => {
    loads[owners[i]] += size;
  });
  return loads;
};

describe('placeWhole', () => {
  it('balances a GPT stack of as many layers as ranks perfectly: 12 h^2 each', () => {
    const layer = [3, 1, 4, 4];
    for (const ranks of [2, 3, 4, 8]) {
      const sizes = Array.from({ length: ranks }, () => layer).flat();
      expect(loadsOf(sizes, placeWhole(sizes, ranks), ranks)).toEqual(Array(ranks).fill(12));
    }
  });
  it('orders equal sizes by index modulo ranks, and gives them to the lowest of the least loaded', () => {
    // Order of indices: 0, 3 (0 mod 3), 1, 4 (1 mod 3), 2 (2 mod 3).
    expect(placeWhole([7, 7, 7, 7, 7], 3)).toEqual([0, 2, 1, 1, 0]);
  });
  it('never exceeds the least load by more than the last tensor it placed there', () => {
    const sizes = fc.array(fc.integer({ min: 1, max: 1000 }), { minLength: 1, maxLength: 60 });
    fc.assert(
      fc.property(sizes, fc.integer({ min: 1, max: 9 }), (list, ranks) => {
        const owners = placeWhole(list, ranks);
        const loads = loadsOf(list, owners, ranks);
        const least = Math.min(...loads);
        loads.forEach((load, rank) => {
          const smallest = Math.min(...list.filter((_, i) => owners[i] === rank));
          if (load > 0) expect(load - smallest).toBeLessThanOrEqual(least);
        });
      }),
      { numRuns: 200, seed: 7 },
    );
  });
});

const context = modelContext(referenceBackend(), recipeNamed('o2'));
const make = (name: string, shape: number[], kind: 'linear' | 'embedding' | 'vector') =>
  new Parameter(context, name, shape, kind, { constant: 0 });

describe('placePieces', () => {
  const parameters = [
    make('wte', [50, 8], 'embedding'),
    make('a', [8, 8], 'linear'),
    make('b', [8, 8], 'linear'),
    make('bias', [8], 'vector'),
  ];
  it('cuts an embedding larger than a share by rows, each once, and nothing else', () => {
    const pieces = placePieces(parameters, 4);
    expect(pieces.get(parameters[0])?.map(({ owner, rows }) => [owner, ...rows])).toEqual([
      [0, 0, 12],
      [1, 12, 25],
      [2, 25, 37],
      [3, 37, 50],
    ]);
    for (const p of parameters.slice(1)) expect(pieces.get(p)).toEqual([expect.objectContaining({ rows: [0, 8] })]);
  });
  it('cuts no tensor whose weight has a scale, nor anything on one rank', () => {
    const large = make('large', [64, 64], 'linear');
    expect(placePieces([large, ...parameters], 4).get(large)).toHaveLength(1);
    for (const list of placePieces(parameters, 1).values()) expect(list).toHaveLength(1);
  });
});

describe('tensor-parallel ranks', () => {
  it('give what they all hold whole the same owners, whatever their shares of the vocabulary', () => {
    const vocabulary = fc.integer({ min: 2, max: 200 });
    const sizes = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 12 });
    const counts = fc.integer({ min: 2, max: 4 });
    fc.assert(
      fc.property(vocabulary, sizes, counts, counts, (vocab, list, tp, ranks) => {
        fc.pre(vocab >= tp);
        const owners = Array.from({ length: tp }, (_, rank) => {
          const group = { size: tp, rank, reduceMax: () => {} };
          const shard = makeShard([vocab, 4], 0, [vocabRange(vocab, group)], group);
          const wte = new Parameter(context, 'wte', [vocab, 4], 'embedding', { constant: 0 }, { shard });
          const norms = list.map((n, i) => make(`norm${i}`, [n], 'vector'));
          const pieces = placePieces([wte, ...norms], ranks);
          for (const { rows } of pieces.get(wte) ?? []) expect(rows[1]).toBeGreaterThan(rows[0]);
          return norms.map((p) => pieces.get(p)?.map(({ owner }) => owner));
        });
        for (const other of owners) expect(other).toEqual(owners[0]);
      }),
      { numRuns: 300, seed: 7 },
    );
  });
});

describe('cutIntoBuckets', () => {
  it('keeps payload dtypes apart, and orders buckets by their member that is complete last', () => {
    const parameters = [
      make('c.wte', [4, 8], 'embedding'),
      make('c.ln', [8], 'vector'),
      make('c.w1', [8, 8], 'linear'),
      make('c.w2', [8, 8], 'linear'),
      make('c.w3', [8, 8], 'linear'),
      make('c.lnf', [8], 'vector'),
    ];
    const names = cutIntoBuckets(parameters, 128).map((bucket) => bucket.map(({ name }) => name.slice(2)));
    expect(names).toEqual([['w3', 'w2'], ['w1'], ['lnf', 'ln'], ['wte']]);
  });
});
