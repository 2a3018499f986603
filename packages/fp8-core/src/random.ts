// Counter-based random numbers: a value is a function of (seed, stream, index) and of nothing else, so every rank makes only
// its slice and every backend and layout starts from the same bits.
// Philox4x32-10: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", and its Random123 distribution.

/** Upper 32 of the 64 bits of a whole number (two's complement); `n >>> 0` gives the lower 32. */
export const highWord = (n: number): number => Math.floor(n / 4294967296) >>> 0;

/** Writes the four 32-bit words of Philox4x32-10 for a 128-bit counter and a 64-bit key, both as 32-bit words, low first. */
export function philox(c0: number, c1: number, c2: number, c3: number, k0: number, k1: number, out: Uint32Array): void {
  for (let round = 0; round < 10; round++) {
    const high0 = mulHigh(0xd251, 0x1f53, c0);
    const high1 = mulHigh(0xcd9e, 0x8d57, c2);
    const low0 = Math.imul(0xd2511f53, c0);
    const low1 = Math.imul(0xcd9e8d57, c2);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 = (k0 + 0x9e3779b9) | 0;
    k1 = (k1 + 0xbb67ae85) | 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

/** Upper 32 bits of the product of two 32-bit numbers, the first in halves; each partial sum stays below 2^32. */
function mulHigh(aHigh: number, aLow: number, b: number): number {
  const bHigh = b >>> 16;
  const bLow = b & 0xffff;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const other = aLow * bHigh + (middle & 0xffff);
  return aHigh * bHigh + (middle >>> 16) + (other >>> 16);
}

const words = new Uint32Array(4);

/**
 * Word `index` of a stream of uniform 32-bit words: word index & 3 of block index >> 2.
 * @param seed, stream, index whole numbers below 2^53
 */
export function randomWord(seed: number, stream: number, index: number): number {
  const block = Math.floor(index / 4);
  philox(block >>> 0, highWord(block), stream >>> 0, highWord(stream), seed >>> 0, highWord(seed), words);
  return words[index % 4];
}

/** Uniform in [0, 1), in steps of 2^-32. */
export const randomUniform = (seed: number, stream: number, index: number): number =>
  randomWord(seed, stream, index) / 4294967296;

/** Brings the sum of eight 16-bit uniforms, doubled and centred, to a standard deviation of 1. */
const unit = Math.fround(0.5 / Math.sqrt((8 * (65536 ** 2 - 1)) / 12));

/**
 * A float32 from (nearly) the standard normal: the sum of eight 16-bit uniforms (Irwin-Hall), which needs only integer
 * arithmetic and one rounding, so it has the same bits everywhere; its range ends at 4.9 standard deviations.
 * Equals `random_normal` with std 1.
 */
export function normalAt(seed: number, stream: number, index: number): number {
  philox(index >>> 0, highWord(index), stream >>> 0, highWord(stream), seed >>> 0, highWord(seed), words);
  let sum = 0;
  for (const w of words) sum += (w & 0xffff) + (w >>> 16);
  return Math.fround((2 * sum - 524280) * unit);
}

/** A stream for a name: 53 bits of FNV-1a over its UTF-8 bytes. Parameters are initialised on the stream of their name. */
export function hashName(name: string): number {
  let hash = 0xcbf29ce484222325n;
  for (const byte of new TextEncoder().encode(name)) hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  return Number(BigInt.asUintN(53, hash ^ (hash >> 53n)));
}
