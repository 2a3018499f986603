import { hash32 } from 'fp8-models';

/**
 * Position `i` of a shuffled [0, n), computed without storing the shuffle: a Feistel network permutes the next power
 * of four, and values beyond n walk on along their cycle until they fall inside (Black and Rogaway 2002).
 * At most about four steps on average; the order is a function of seed and n alone.
 */
export function shuffled(i: number, n: number, seed: number): number {
  if (n <= 1) return 0;
  let halfBits = 1;
  while (4 ** halfBits < n) halfBits++;
  const half = 2 ** halfBits;
  let value = i;
  do {
    let left = Math.floor(value / half);
    let right = value % half;
    for (let round = 0; round < 6; round++) {
      const next = (left ^ hash32(seed, right, round)) & (half - 1);
      left = right;
      right = next;
    }
    value = left * half + right;
  } while (value >= n);
  return value;
}
