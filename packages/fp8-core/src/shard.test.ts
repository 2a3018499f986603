import { describe, expect, it } from 'vitest';
import { referenceBackend } from './backends/reference.ts';
import { modelContext, Parameter } from './parameter.ts';
import { recipes } from './recipes/index.ts';
import { makeShard, mergeShard, type Range, type ShardGroup, shardShape, sliceShard } from './shard.ts';
import type { Tensor } from './tensor.ts';

const { fp32, o3 } = recipes;
const backend = referenceBackend();
const alone: ShardGroup = { size: 1, rank: 0, reduceMax: () => {} };

const bytesOf = (t: Tensor): Uint8Array => {
  const bytes = new Uint8Array(t.numBytes);
  backend.read(t.handle, bytes);
  return bytes;
};

/** q, k, v of four heads of two rows each; rank r of two has two heads of each. */
const fused = (rank: number): Range[] => [0, 8, 16].map((at) => [at + 4 * rank, at + 4 * rank + 4]);

describe('shards', () => {
  const layouts = [
    { dim: 0 as const, parts: [fused(0), fused(1)] },
    { dim: 1 as const, parts: [[[0, 3]], [[3, 5]]] as Range[][] },
  ];
  for (const { dim, parts } of layouts) {
    it(`cut along dim ${dim} and put together again are the whole`, () => {
      const shape = [24, 5];
      const whole = Uint8Array.from({ length: 240 }, (_, i) => i);
      const back = new Uint8Array(240);
      for (const ranges of parts) {
        const shard = makeShard(shape, dim, ranges, alone);
        mergeShard(shard, back, sliceShard(shard, whole, 2), 2);
      }
      expect(back).toEqual(whole);
    });

    it(`along dim ${dim} start from the values of the whole tensor`, () => {
      const context = modelContext(backend, fp32, 7);
      const whole = new Parameter(context, 'p', [24, 5], 'linear', { std: 1 });
      for (const ranges of parts) {
        const shard = makeShard([24, 5], dim, ranges, alone);
        const p = new Parameter(context, 'p', [24, 5], 'linear', { std: 1 }, { shard });
        expect(p.shape).toEqual(shardShape(shard));
        expect(p.wholeShape).toEqual([24, 5]);
        expect(bytesOf(p.data)).toEqual(sliceShard(shard, bytesOf(whole.data), 4));
        p.release();
      }
      whole.release();
    });

    it(`along dim ${dim} have the scales and bits of the whole tensor when stored in FP8 and scaled FP16`, () => {
      const context = modelContext(backend, o3, 7);
      const whole = new Parameter(context, 'p', [24, 5], 'linear', { std: 1 });
      const largest = Math.max(...amaxes(whole));
      for (const ranges of parts) {
        const group = { ...alone, size: 2, reduceMax: (v: Float32Array) => v.fill(largest) };
        const shard = makeShard([24, 5], dim, ranges, group);
        const p = new Parameter(context, 'p', [24, 5], 'linear', { std: 1 }, { shard });
        for (const [a, b, width] of [
          [p.data, whole.data, 1],
          [p.master as Tensor, whole.master as Tensor, 2],
        ] as const) {
          expect(backend.readScale(a.handle).slice(0, 2)).toEqual(backend.readScale(b.handle).slice(0, 2));
          expect(bytesOf(a)).toEqual(sliceShard(shard, bytesOf(b), width));
        }
        p.release();
      }
      whole.release();
    });
  }

  const amaxes = (p: Parameter): number[] => [backend.readScale((p.master as Tensor).handle)[2]];

  it('refuse ranges that overlap, are empty or leave the tensor', () => {
    for (const ranges of [
      [
        [0, 3],
        [2, 4],
      ],
      [[1, 1]],
      [[20, 25]],
    ] as Range[][]) {
      expect(() => makeShard([24, 5], 0, ranges, alone)).toThrow(RangeError);
    }
  });
});
