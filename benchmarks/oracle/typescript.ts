// The TypeScript codec against every float32 pattern and every byte: `npx tsx -C source benchmarks/oracle/typescript.ts`
// [--stride N] takes each N-th block of 2^20 patterns only. Exit code 1 on any difference.
//
// The oracle is the formats' definition in float64, and shares no code and no method with codec.ts: rounding is monotone, so
// over the patterns of one sign in rising order the right codes are a staircase whose steps begin at the midpoints between
// neighbouring values (a tie belongs to the even code). A block is then a few fills and one comparison of bytes.
import { parseArgs } from 'node:util';
import { decodeFp8, encodeFp8, type Fp8DType } from 'fp8-core';

interface Format {
  exponentBits: number;
  mantissaBits: number;
  hasInfinity: boolean;
}
const formats: Record<Fp8DType, Format> = {
  e4m3: { exponentBits: 4, mantissaBits: 3, hasInfinity: false },
  e5m2: { exponentBits: 5, mantissaBits: 2, hasInfinity: true },
};

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);
const blockSize = 2 ** 20;
const infinity = 0x7f800000;
const nanCode = 0x7f;

/** The number that a code without sign would stand for if every exponent were a number. */
function magnitude(f: Format, code: number): number {
  const bias = 2 ** (f.exponentBits - 1) - 1;
  const exponent = Math.floor(code / 2 ** f.mantissaBits);
  const fraction = (code % 2 ** f.mantissaBits) / 2 ** f.mantissaBits;
  return exponent === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (exponent - bias);
}

/** The first code that is no finite number. */
const beyond = (f: Format): number => (f.hasInfinity ? 0x7c : 0x7f);

/** first[c]: the smallest positive pattern that rounds to code c or beyond. */
function staircase(f: Format): number[] {
  const first = [0];
  for (let code = 1; code <= beyond(f); code++) {
    float[0] = (magnitude(f, code - 1) + magnitude(f, code)) / 2; // exact: one mantissa bit more than the format
    first.push(bits[0] + (code % 2));
  }
  return first;
}

/** The right codes of the patterns [start, start + blockSize), which have one sign. */
function expected(f: Format, first: number[], start: number, saturate: boolean, out: Uint8Array): void {
  const sign = start >= 2 ** 31 ? 0x80 : 0;
  const base = start % 2 ** 31;
  const put = (from: number, to: number, code: number): void => {
    if (to > base && from < base + blockSize)
      out.fill(sign | code, Math.max(0, from - base), Math.min(blockSize, to - base));
  };
  for (let code = 0; code < beyond(f); code++) put(first[code], first[code + 1], code);
  put(first[beyond(f)], infinity + 1, saturate ? beyond(f) - 1 : beyond(f));
  put(infinity + 1, 2 ** 31, nanCode);
}

function checkEncoder(dtype: Fp8DType, saturate: boolean, stride: number): number {
  const f = formats[dtype];
  const first = staircase(f);
  const patterns = new Uint32Array(blockSize);
  const values = new Float32Array(patterns.buffer);
  const want = new Uint8Array(blockSize);
  let different = 0;
  let checked = 0;
  for (let start = 0; start < 2 ** 32; start += blockSize * stride) {
    for (let i = 0; i < blockSize; i++) patterns[i] = start + i;
    expected(f, first, start, saturate, want);
    const got = encodeFp8(values, dtype, { saturate });
    checked += blockSize;
    if (Buffer.compare(got, want) === 0) continue;
    for (let i = 0; i < blockSize; i++) {
      if (got[i] !== want[i] && different++ < 5)
        console.log(`  0x${(start + i).toString(16)}: got 0x${got[i].toString(16)}, want 0x${want[i].toString(16)}`);
    }
  }
  const kind = saturate ? 'saturating' : 'not saturating';
  console.log(`encodeFp8 ${dtype}, ${kind}: ${checked} patterns, ${different} different`);
  return different;
}

function checkDecoder(dtype: Fp8DType): number {
  const f = formats[dtype];
  const got = decodeFp8(
    Uint8Array.from({ length: 256 }, (_, code) => code),
    dtype,
  );
  let different = 0;
  for (let code = 0; code < 256; code++) {
    const abs = code % 128;
    const finite = abs < beyond(f);
    const size = finite
      ? magnitude(f, abs)
      : f.hasInfinity && abs === beyond(f)
        ? Number.POSITIVE_INFINITY
        : Number.NaN;
    if (!Object.is(got[code], code < 128 || Number.isNaN(size) ? size : -size)) different++;
  }
  console.log(`decodeFp8 ${dtype}: 256 codes, ${different} different`);
  return different;
}

const { values: options } = parseArgs({ options: { stride: { type: 'string', default: '1' } } });
if (!/^[1-9]\d{0,3}$/.test(options.stride)) {
  console.error(`oracle: --stride is ${options.stride}; expected a whole number from 1 to 9999`);
  process.exit(2);
}
let different = 0;
for (const dtype of ['e4m3', 'e5m2'] as const) {
  different += checkDecoder(dtype);
  for (const saturate of [true, false]) different += checkEncoder(dtype, saturate, Number(options.stride));
}
process.exitCode = different > 0 ? 1 : 0;
