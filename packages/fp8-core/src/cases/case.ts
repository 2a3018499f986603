// A kernel case is data: which kernel, its arguments from seeded values, and how exactly each result must agree. One table
// of them holds every backend against the reference.
import type { DType } from '../dtype.ts';
import type { Kernels } from '../kernels.gen.ts';
import { hashName, normalAt, randomUniform } from '../random.ts';

/** A tensor argument: made from values, or uninitialised, or the very tensor of another argument. */
export interface TensorSpec {
  readonly dtype: DType;
  readonly size: number;
  /** Values before the scale; null: the tensor starts as poison (NaN), and the kernel must write all of it. */
  readonly values: ArrayLike<number> | null;
  readonly scale: number;
  /** Name of the argument whose tensor this one is. */
  readonly sameAs?: string;
}

export const input = (dtype: DType, values: ArrayLike<number>, scale = 1): TensorSpec => ({
  dtype,
  size: values.length,
  values,
  scale,
});

/** @param scale what the scale block holds before the call */
export const output = (dtype: DType, size: number, scale = 1): TensorSpec => ({ dtype, size, values: null, scale });

/** The same tensor as another argument: the kernel works in place. */
export const sameAs = (name: string): TensorSpec => ({ dtype: 'f32', size: 0, values: null, scale: 1, sameAs: name });

/** How a result must agree with the oracle's. */
export type Comparison =
  /** Every bit, any NaN counting as any other (IEEE leaves its sign and payload open); the scale block too. */
  | { kind: 'bits' }
  /** |got - want| <= rtol * |want| + ofMax * max|want| + atol, on values. */
  | { kind: 'close'; rtol: number; ofMax: number; atol: number; reason: string }
  /** FP8 written from values that are close: at most `share` of the codes differ (one may always), by one step. */
  | { kind: 'codes'; share: number; reason: string };

export const bits = (): Comparison => ({ kind: 'bits' });
/** @param atol for results that are nothing but rounding: what cancels exactly */
export const close = (rtol: number, ofMax: number, reason: string, atol = 0): Comparison => ({
  kind: 'close',
  rtol,
  ofMax,
  atol,
  reason,
});
export const codes = (share: number, reason: string): Comparison => ({ kind: 'codes', share, reason });

/** Argument specs of a kernel: a number for a number, a spec for a tensor, null for a tensor that is left out. */
export type SpecsOf<A> = {
  [P in keyof A]: NonNullable<A[P]> extends number ? number : null extends A[P] ? TensorSpec | null : TensorSpec;
};

export interface KernelCase {
  readonly kernel: keyof Kernels;
  /** What is special about it; unique within the kernel. */
  readonly name: string;
  readonly args: (random: CaseRandom) => Record<string, TensorSpec | number | null | undefined>;
  /** By argument; every out and inout tensor that is not named here must agree in every bit. */
  readonly compare: Readonly<Record<string, Comparison>>;
}

type ArgsOf<K extends keyof Kernels> = Parameters<Kernels[K]>[0];

export const kernelCase = <K extends keyof Kernels>(
  kernel: K,
  name: string,
  args: (random: CaseRandom) => SpecsOf<ArgsOf<K>>,
  compare: { [P in keyof ArgsOf<K>]?: Comparison } = {},
): KernelCase => ({
  kernel,
  name,
  args: args as unknown as KernelCase['args'],
  compare: compare as KernelCase['compare'],
});

/** Seeded values for one case; the same on every machine. */
export class CaseRandom {
  private readonly stream: number;
  private index = 0;

  constructor(name: string) {
    this.stream = hashName(name);
  }

  uniform(low = 0, high = 1): number {
    return low + (high - low) * randomUniform(20, this.stream, this.index++);
  }

  integers(n: number, low: number, high: number): Int32Array {
    return Int32Array.from({ length: n }, () => Math.floor(this.uniform(low, high)));
  }

  normals(n: number, std = 1, mean = 0): Float32Array {
    return Float32Array.from({ length: n }, () => mean + std * normalAt(21, this.stream, this.index++));
  }

  /** Both signs, magnitudes spread evenly over the powers of two from 2^low to 2^high. */
  wide(n: number, low: number, high: number): Float32Array {
    return Float32Array.from({ length: n }, () => (this.uniform() < 0.5 ? -1 : 1) * 2 ** this.uniform(low, high));
  }

  /** `wide` values with every kind of difficult one strewn in; no NaN and no infinity. */
  difficult(n: number): Float32Array {
    const x = this.wide(n, -24, 12);
    for (let i = 0; i < n; i += 3) x[i] = finiteSpecials[Math.floor(this.uniform(0, finiteSpecials.length))];
    return x;
  }
}

/** Zeros, subnormals of each format, ties, ends of ranges: values on which a cast goes wrong first. */
export const finiteSpecials: readonly number[] = [
  0,
  2 ** -149, // smallest float32
  2 ** -127,
  2 ** -126,
  2 ** -24, // smallest f16
  2 ** -25,
  3 * 2 ** -25,
  2 ** -16, // smallest e5m2
  2 ** -17,
  3 * 2 ** -18,
  2 ** -9, // smallest e4m3
  2 ** -10,
  3 * 2 ** -11,
  2 ** -6, // smallest normal e4m3
  2 ** -14, // smallest normal e5m2 and f16
  1,
  1.0625, // tie of e4m3, down to even
  1.1875, // tie of e4m3, up to even
  1.125, // tie of e5m2
  1.375,
  1 + 2 ** -8, // ties of bf16 and f16
  1 + 3 * 2 ** -8,
  1 + 2 ** -11,
  1 + 3 * 2 ** -11,
  1.0625 + 2 ** -20, // just above a tie
  1.1875 - 2 ** -20, // just below one
  240,
  432,
  448,
  449,
  464, // where e4m3 overflows
  465,
  57344,
  61440, // where e5m2 overflows
  65504,
  65520, // where f16 overflows
].flatMap((v) => [v, -v]);
