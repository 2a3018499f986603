import { UserError } from 'fp8-core';
import { describe, expect, it } from 'vitest';
import { Group, initializeModelParallel, Mesh, type ModelParallelSizes, runThreads } from './index.ts';

const module = new URL('../test/ranks/mesh.ts', import.meta.url);
const meshes = (size: number, sizes: ModelParallelSizes) =>
  runThreads<Record<string, number[] | null>>(size, module, sizes);

describe('initializeModelParallel', () => {
  it('lays 8 ranks out as Megatron does: tp fastest, then dp, then pp', async () => {
    const all = await meshes(8, { tensor: 2, pipeline: 2 });
    expect(all.map((m) => m.tp)).toEqual([0, 0, 2, 2, 4, 4, 6, 6].map((r) => [r, r + 1]));
    expect(all.map((m) => m.dp)).toEqual([0, 1, 0, 1, 4, 5, 4, 5].map((r) => [r, r + 2]));
    expect(all.map((m) => m.pp)).toEqual([0, 1, 2, 3, 0, 1, 2, 3].map((r) => [r, r + 4]));
    expect(all[2].model).toEqual([2, 3, 6, 7]);
    expect(all[5].tpDp).toEqual([4, 5, 6, 7]);
    expect(all[5].sum).toEqual([22]);
    expect(all[3].embedding).toEqual([3, 7]);
    expect(all.map((m) => m.firstLast)).toEqual([0, 1, 2, 3, 4, 5, 6, 7].map((r) => [Number(r < 4), Number(r >= 4)]));
  });

  it('leaves middle stages out of the embedding group', async () => {
    const all = await meshes(3, { pipeline: 3, virtualPipeline: 2 });
    expect(all.map((m) => m.embedding)).toEqual([[0, 2], null, [0, 2]]);
    expect(all.map((m) => m.neighbours)).toEqual([
      [2, 1],
      [0, 2],
      [1, 0],
    ]);
  });

  it('prints the equation when the world does not divide', () => {
    const world = { size: 6, rank: 0 };
    Object.setPrototypeOf(world, Group.prototype);
    expect(() => initializeModelParallel(world as unknown as Group, { tensor: 2, pipeline: 2 })).toThrow(
      'world size 6 = tensor 2 x pipeline 2 x data 1.5',
    );
    expect(() => initializeModelParallel(Group.single(), { tensor: 0 })).toThrow(UserError);
    expect(() => initializeModelParallel(Group.single(), { virtualPipeline: 2 })).toThrow('needs pipeline > 1');
  });

  it('of one rank is a mesh of groups of one', () => {
    for (const mesh of [Mesh.single(), initializeModelParallel(Group.single())]) {
      expect([mesh.tp.size, mesh.dp.size, mesh.pp.size, mesh.tpDp.size, mesh.embedding?.size]).toEqual([1, 1, 1, 1, 1]);
      expect(mesh.isPipelineFirstStage() && mesh.isPipelineLastStage()).toBe(true);
      expect(mesh.describe()).toBe('1 rank');
    }
  });
});
