// Casts, scales and amaxes; every kernel here is bit-exact, except the order of quantize_rows' column sums.
import { scaleFor } from '../../codec.ts';
import { dtypes, scaleSlot, windowSlot } from '../../dtype.ts';
import type {
  AccumulateFp8Args,
  AmaxArgs,
  CastArgs,
  FillArgs,
  MuFollowArgs,
  MuUpdateArgs,
  QuantizeArgs,
  QuantizeRowsArgs,
  SaturatedArgs,
  WindowUpdateArgs,
} from '../../kernels.gen.ts';
import type { CellsOf } from '../check.ts';
import { bytesOf, type Cell } from '../host.ts';
import { amaxOf, f32Of, i32Of, load, storeJustInTime, storePlain, storeQuantized, storeScaled } from './cells.ts';
import { addColumnSums } from './columns.ts';

const f = Math.fround;

/** Scaled dtypes keep their scale: the stored code is that of value * scale. */
export function fill({ y, n, value }: CellsOf<FillArgs>): void {
  if (y.dtype === 'i32') i32Of(y).fill(value, 0, n);
  else if (y.scale) storeScaled(y, new Float32Array(n).fill(value), y.scale[scaleSlot.scale], Math.abs(f(value)), 0);
  else storePlain(y, new Float32Array(n).fill(value));
}

export function cast({ y, x, n, random }: CellsOf<CastArgs>): void {
  const values = load(x, n);
  if (y.scale) storeScaled(y, values, y.scale[scaleSlot.scale], amaxOf(values), random);
  else storePlain(y, values);
}

export function quantize({ y, x, window, mu, known, n, random }: CellsOf<QuantizeArgs>): void {
  const recorded = x.scale && x.scale[scaleSlot.amax] > 0 ? x.scale[scaleSlot.amax] : null;
  storeQuantized(y, load(x, n), window, mu ? f32Of(mu)[0] : 1, random, known ? f32Of(known)[0] : recorded);
}

export function quantize_rows({ y, transposed, sums, x, window, rows, dim, random }: CellsOf<QuantizeRowsArgs>): void {
  if (transposed && transposed.dtype !== y.dtype)
    throw new RangeError(`quantize_rows: transposed is ${transposed.dtype}, y is ${y.dtype}; they must match`);
  const values = load(x, rows * dim);
  if (sums) addColumnSums(f32Of(sums), values, rows, dim);
  storeQuantized(y, values, window, 1, random);
  if (!transposed) return;
  const [from, to] = [bytesOf(y), bytesOf(transposed)];
  for (let r = 0; r < rows; r++) for (let c = 0; c < dim; c++) to[c * rows + r] = from[r * dim + c];
  transposed.scale?.set(y.scale as Float32Array);
}

export function accumulate_fp8({ y, x, mu, n }: CellsOf<AccumulateFp8Args>): void {
  const sum = load(y, n);
  const values = load(x, n);
  for (let i = 0; i < n; i++) sum[i] += values[i];
  storeJustInTime(y, sum, mu ? f32Of(mu)[0] : 1);
}

export function amax({ y, x, n }: CellsOf<AmaxArgs>): void {
  f32Of(y)[0] = amaxOf(load(x, n));
}

export function window_update({ windows, count, max }: CellsOf<WindowUpdateArgs>): void {
  const all = f32Of(windows);
  for (let i = 0; i < count; i++) {
    const w = all.subarray(i * windowSlot.size, (i + 1) * windowSlot.size);
    const history = w.subarray(windowSlot.history);
    const bad = !Number.isFinite(w[windowSlot.amax]);
    const a = bad ? 0 : w[windowSlot.amax];
    const s = w[windowSlot.scale];
    w[windowSlot.scale] = scaleFor(Math.max(a, ...history), f(max), s > 0 ? s : 1);
    history.copyWithin(1, 0);
    history[0] = a;
    w[windowSlot.count] = bad ? 0 : Math.min(w[windowSlot.count] + 1, windowSlot.length);
    w[windowSlot.amax] = 0;
  }
}

export function mu_update({ mu, x, n, threshold, growth }: CellsOf<MuUpdateArgs>): void {
  follow(mu, countMax(x, n), n, threshold, growth);
}

export function saturated({ y, x, n }: CellsOf<SaturatedArgs>): void {
  f32Of(y)[0] = countMax(x, n);
}

export function mu_follow({ mu, count, total, threshold, growth }: CellsOf<MuFollowArgs>): void {
  follow(mu, f32Of(count)[0], total, threshold, growth);
}

/** How many of the first n codes are at either end of the range. */
function countMax(x: Cell, n: number): number {
  const codes = bytesOf(x);
  const max = dtypes[x.dtype].max === 448 ? 0x7e : 0x7b;
  let count = 0;
  for (let i = 0; i < n; i++) if ((codes[i] & 0x7f) === max) count++;
  return count;
}

function follow(mu: Cell, count: number, total: number, threshold: number, growth: number): void {
  f32Of(mu)[0] *= total > 0 && count / total > threshold ? 0.5 : f(growth);
}
