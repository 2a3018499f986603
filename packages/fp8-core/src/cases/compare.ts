// Comparison of one result with the oracle's; a difference comes back as text that names the worst element.
import { type DType, dtypes, scaleSlot } from '../dtype.ts';
import type { Comparison } from './case.ts';
import { decodeValues } from './tensors.ts';

/** A tensor read back: its bytes and scale block. */
export interface Result {
  readonly dtype: DType;
  readonly bytes: Uint8Array;
  readonly block: Float32Array | null;
}

/** Differences of `got` from `want`, one line each; none if it agrees. */
export function differences(got: Result, want: Result, how: Comparison): string[] {
  switch (how.kind) {
    case 'bits':
      return [...differentBits(got, want), ...differentBlock(got, want)];
    case 'close':
      return differentValues(got, want, how);
    case 'codes':
      return differentCodes(got, want, how.share, how.reason);
    default:
      return how satisfies never;
  }
}

const hex = (code: number, digits: number): string => `0x${code.toString(16).padStart(digits, '0')}`;

/** The stored codes as unsigned integers. */
function codesOf({ dtype, bytes }: Result): Uint8Array | Uint16Array | Uint32Array {
  const buffer = bytes.slice().buffer;
  const size = dtypes[dtype].bytes;
  return size === 1 ? new Uint8Array(buffer) : size === 2 ? new Uint16Array(buffer) : new Uint32Array(buffer);
}

function differentBits(got: Result, want: Result): string[] {
  const [a, b] = [codesOf(got), codesOf(want)];
  const [x, y] = [decodeValues(got.dtype, got.bytes), decodeValues(want.dtype, want.bytes)];
  let count = 0;
  let first = -1;
  for (let i = 0; i < a.length; i++) {
    if (a[i] === b[i] || (Number.isNaN(x[i]) && Number.isNaN(y[i]))) continue;
    if (count++ === 0) first = i;
  }
  if (count === 0) return [];
  const digits = dtypes[got.dtype].bytes * 2;
  return [
    `${count} of ${a.length} elements differ in bits; first [${first}]: got ${x[first]} (${hex(a[first], digits)}), ` +
      `want ${y[first]} (${hex(b[first], digits)})`,
  ];
}

function differentBlock(got: Result, want: Result): string[] {
  if (!got.block || !want.block) return [];
  const [a, b] = [got.block, want.block];
  return a.every((v, i) => Object.is(v, b[i])) ? [] : [`scale block: got [${a.join(', ')}], want [${b.join(', ')}]`];
}

function differentValues(got: Result, want: Result, how: Comparison & { kind: 'close' }): string[] {
  const { rtol, ofMax, atol, reason } = how;
  const inv = (r: Result): number => (r.block ? r.block[scaleSlot.scaleInv] : 1);
  const x = decodeValues(got.dtype, got.bytes).map((v) => v * inv(got));
  const y = decodeValues(want.dtype, want.bytes).map((v) => v * inv(want));
  const largest = y.reduce((m, v) => (Number.isFinite(v) ? Math.max(m, Math.abs(v)) : m), 0);
  let worst = -1;
  let excess = 1;
  for (let i = 0; i < y.length; i++) {
    if (Object.is(x[i], y[i]) || x[i] === y[i]) continue;
    const error = Math.abs(x[i] - y[i]) / (rtol * Math.abs(y[i]) + ofMax * largest + atol);
    if (error <= excess) continue;
    worst = i;
    excess = Number.isNaN(error) ? Number.POSITIVE_INFINITY : error;
  }
  if (worst < 0) return [];
  return [
    `[${worst}]: got ${x[worst]}, want ${y[worst]}; ${excess.toPrecision(3)} times the tolerance ` +
      `(rtol ${rtol} + ${ofMax} of max ${largest.toPrecision(4)} + ${atol}: ${reason})`,
  ];
}

/** Codes in the order of their values, so that neighbours differ by 1. */
const ordered = (code: number, signBit: number): number => (code & signBit ? -(code & (signBit - 1)) : code);

function differentCodes(got: Result, want: Result, share: number, reason: string): string[] {
  const [a, b] = [codesOf(got), codesOf(want)];
  const [x, y] = [decodeValues(got.dtype, got.bytes), decodeValues(want.dtype, want.bytes)];
  const signBit = 2 ** (dtypes[got.dtype].bytes * 8 - 1);
  const allowed = Math.max(1, Math.floor(share * a.length));
  const out: string[] = [];
  let count = 0;
  let worst = -1;
  let largest = 0;
  for (let i = 0; i < a.length; i++) {
    if (Number.isNaN(x[i]) && Number.isNaN(y[i])) continue;
    const steps =
      Number.isNaN(x[i]) || Number.isNaN(y[i]) ? 999 : Math.abs(ordered(a[i], signBit) - ordered(b[i], signBit));
    if (steps > 0) count++;
    if (steps > largest) {
      largest = steps;
      worst = i;
    }
  }
  if (largest > 1 || count > allowed) {
    out.push(
      `${count} of ${a.length} codes differ (allowed ${allowed}, by one step: ${reason}); worst [${worst}]: ` +
        `got ${x[worst]} (${hex(a[worst], 2)}), want ${y[worst]} (${hex(b[worst], 2)})`,
    );
  }
  if (got.block && want.block) {
    const near = [0, 0, 1e-5 * want.block[scaleSlot.amax], allowed];
    const far = (v: number, i: number): boolean => Math.abs(v - (want.block?.[i] ?? 0)) > near[i];
    if (got.block.some((v, i) => !Object.is(v, want.block?.[i]) && far(v, i))) {
      out.push(`scale block: got [${got.block.join(', ')}], want [${want.block.join(', ')}]`);
    }
  }
  return out;
}
