/**
 * Gives whole tensors to ranks so that their loads are even: largest first, each to the least loaded rank (FP8-LM, algorithm 1;
 * a scaled tensor is never cut, as its elements share one scale). Among equal sizes the order is by index modulo the number of
 * ranks, among equally loaded ranks the lowest takes it, as the paper's authors do.
 * @param sizes bytes of each tensor
 * @returns the rank of each tensor
 */
export function placeWhole(sizes: readonly number[], ranks: number): number[] {
  const order = sizes
    .map((size, index) => ({ size, index }))
    .sort((a, b) => b.size - a.size || (a.index % ranks) - (b.index % ranks) || a.index - b.index);
  const loads: number[] = Array(ranks).fill(0);
  const owners: number[] = Array(sizes.length).fill(0);
  for (const { size, index } of order) {
    const rank = loads.indexOf(Math.min(...loads));
    owners[index] = rank;
    loads[rank] += size;
  }
  return owners;
}
