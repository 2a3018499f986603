// What parallel layers are built with: the mesh, whether norms and residuals lie on a part of the sequence, and the parts into
// which a group cuts a dim.
import { makeShard, type Range, type Shape, type Shard, type ShardGroup, UserError } from 'fp8-core';
import type { Group } from '../group.ts';
import { Mesh } from '../mesh.ts';

export interface Parallel {
  readonly mesh: Mesh;
  /** Between the parallel layers, activations are [T / tp, B, C]: each rank has a part of the sequence. */
  readonly sequenceParallel: boolean;
}

/** One rank. */
export const alone = (): Parallel => ({ mesh: Mesh.single(), sequenceParallel: false });

/** The group as core sees it. */
export const shardGroup = (group: Group): ShardGroup => ({
  size: group.size,
  rank: group.rank,
  reduceMax: (values) => group.allReduce(values, { op: 'max' }).wait(),
});

/**
 * Equal shares of each of `parts`, which together are a dim.
 * @throws UserError with the numbers if a part is not a multiple of the group
 */
export function evenRanges(what: string, parts: readonly number[], group: Group): Range[] {
  let at = 0;
  return parts.map((part) => {
    if (part % group.size) {
      throw new UserError(
        `${what}: ${part} is not a multiple of tensor parallel size ${group.size}; choose a size that divides it`,
      );
    }
    const share = part / group.size;
    const begin = at + group.rank * share;
    at += part;
    return [begin, begin + share];
  });
}

/** Vocabularies are cut at multiples of this many rows, where they have as many, to keep products on whole tiles. */
const vocabBlock = 16;

/**
 * This rank's rows of a vocabulary. Not padded: shares differ by up to one block instead, which costs no memory and needs no
 * masks.
 * @throws UserError if there are fewer entries than ranks
 */
export function vocabRange(vocabSize: number, group: Pick<Group, 'size' | 'rank'>): Range {
  if (vocabSize < group.size)
    throw new UserError(`vocabulary of ${vocabSize} entries: fewer than tensor parallel size ${group.size}`);
  const block = vocabSize >= vocabBlock * group.size ? vocabBlock : 1;
  const blocks = Math.ceil(vocabSize / block);
  const edge = (i: number): number => Math.min(vocabSize, block * Math.floor((blocks * i) / group.size));
  return [edge(group.rank), edge(group.rank + 1)];
}

/** The shard of `ranges`; null where the group is one rank and the shard the whole. */
export const shardOver = (group: Group, shape: Shape, dim: 0 | 1, ranges: readonly Range[]): Shard | null =>
  group.size === 1 ? null : makeShard(shape, dim, ranges, shardGroup(group));
