import { PairHeap } from './pair_heap.ts';

/** Rank of the merge (left, right) and the id it makes; undefined if the two do not merge. */
export type MergeRule = (left: number, right: number) => { rank: number; id: number } | undefined;

/** Below this length a plain search for the best pair beats the heap. */
const SHORT = 48;

/**
 * Applies BPE to one word in place of its byte ids: always the pair of the lowest rank, the leftmost among equals.
 * @param ids ids of the bytes; used as scratch
 */
export function mergeWord(ids: number[], rule: MergeRule): number[] {
  return ids.length <= SHORT ? mergeShort(ids, rule) : mergeLong(ids, rule);
}

function mergeShort(ids: number[], rule: MergeRule): number[] {
  while (ids.length > 1) {
    let best = -1;
    let bestRank = Infinity;
    let bestId = 0;
    for (let i = 0; i + 1 < ids.length; i++) {
      const found = rule(ids[i], ids[i + 1]);
      if (found !== undefined && found.rank < bestRank) {
        best = i;
        bestRank = found.rank;
        bestId = found.id;
      }
    }
    if (best < 0) break;
    ids.splice(best, 2, bestId);
  }
  return ids;
}

/** The same in O(n log n): a doubly linked list of positions and a heap of candidates by (rank, position). */
function mergeLong(ids: number[], rule: MergeRule): number[] {
  const length = ids.length;
  const next = Int32Array.from({ length }, (_, i) => i + 1);
  const previous = Int32Array.from({ length }, (_, i) => i - 1);
  const heap = new PairHeap();
  const rankAt = new Float64Array(length).fill(-1); // rank of the live candidate that starts here
  const consider = (i: number) => {
    const found = next[i] < length ? rule(ids[i], ids[next[i]]) : undefined;
    rankAt[i] = found === undefined ? -1 : found.rank;
    if (found !== undefined) heap.push(-found.rank, i);
  };
  for (let i = 0; i + 1 < length; i++) consider(i);
  while (heap.size > 0) {
    const { count, key: i } = heap.pop();
    if (rankAt[i] !== -count) continue; // replaced by a later candidate, or merged away
    const j = next[i];
    ids[i] = rule(ids[i], ids[j])!.id;
    rankAt[j] = -1;
    next[i] = next[j];
    if (next[i] < length) previous[next[i]] = i;
    consider(i);
    if (previous[i] >= 0) consider(previous[i]);
  }
  const out: number[] = [];
  for (let i = 0; i < length; i = next[i]) out.push(ids[i]);
  return out;
}
