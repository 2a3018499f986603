/**
 * Counter-based random numbers: a pure function of seed and counters, so any element can be made alone, in any order.
 * The mixer is the finaliser of MurmurHash3 (Appleby, public domain), applied once a word; it is for shuffling and
 * sampling, not for cryptography.
 */

/** 32 well-mixed bits of (seed, a, b); the arguments may be any safe integers. */
export function hash32(seed: number, a: number, b = 0): number {
  let h = 0x9e3779b9;
  h = absorb(h, seed);
  h = absorb(h, a);
  return absorb(h, b);
}

/** Uniform in [0, 1) with 53 random bits. */
export function uniform(seed: number, a: number, b = 0): number {
  const high = hash32(seed, a, 2 * b) >>> 5;
  const low = hash32(seed, a, 2 * b + 1) >>> 6;
  return (high * 0x4000000 + low) / 0x20000000000000;
}

function absorb(h: number, word: number): number {
  // Both halves of a safe integer count: seeds such as Date.now() differ above bit 32 too.
  return mix(mix(h ^ (word | 0)) + (Math.floor(word / 0x100000000) | 0) + 0x7f4a7c15);
}

function mix(value: number): number {
  let h = value | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
