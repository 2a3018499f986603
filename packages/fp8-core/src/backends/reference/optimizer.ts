// The optimizer's kernels. AdamW (Loshchilov and Hutter 2019) is bit-exact: constants in float64 rounded once, one rounding
// after each float32 operation. States are stored just in time scaled; master weights too (FP8-LM, Peng et al. 2023).
import type { AdamwArgs, ClipControlArgs, RandomNormalArgs, SumSquaresArgs } from '../../kernels.gen.ts';
import { normalAt } from '../../random.ts';
import type { CellsOf } from '../check.ts';
import type { Cell } from '../host.ts';
import { f32Of, load, storeJustInTime, storePlain } from './cells.ts';

const f = Math.fround;

export function sum_squares({ y, x, n }: CellsOf<SumSquaresArgs>): void {
  let s = 0;
  for (const v of load(x, n)) s += v * v;
  f32Of(y)[0] = s;
}

export function clip_control({ control, sums, count, max_norm }: CellsOf<ClipControlArgs>): void {
  let square = 0;
  for (const s of f32Of(sums).subarray(0, count)) square += s;
  const norm = Math.sqrt(square);
  const skip = !Number.isFinite(f(norm));
  const c = f32Of(control);
  c[0] = max_norm > 0 && norm > max_norm ? max_norm / (norm + 1e-6) : 1;
  c[1] = norm;
  c[2] = skip ? 1 : 0;
  if (!skip) c[3] += 1;
}

export function adamw(a: CellsOf<AdamwArgs>): void {
  const [clip, , skip, t] = f32Of(a.control);
  if (skip !== 0) return;
  const { n } = a;
  const b1 = f(a.beta1);
  const b2 = f(a.beta2);
  const omb1 = f(1 - a.beta1);
  const omb2 = f(1 - a.beta2);
  const rc2 = f(1 / Math.sqrt(1 - a.beta2 ** t));
  const step = f(a.lr / (1 - a.beta1 ** t));
  const decay = f(1 - a.lr * a.weight_decay);
  const eps = f(a.eps);
  const grad = load(a.grad, n);
  const p = load(a.master ?? a.w, n);
  const m = load(a.m, n);
  const v = load(a.v, n);
  for (let i = 0; i < n; i++) {
    const g = f(grad[i] * clip);
    m[i] = f(b1 * m[i]) + f(omb1 * g);
    v[i] = f(b2 * v[i]) + f(omb2 * f(g * g));
    const u = f(m[i] / f(f(f(Math.sqrt(v[i])) * rc2) + eps));
    p[i] = f(p[i] * decay) - f(step * u);
  }
  store(a.m, m);
  store(a.v, v);
  store(a.master ?? a.w, p);
  // The weight is a cast of the master as stored, so that weights can be rebuilt from masters alone.
  if (a.master) store(a.w, load(a.master, n));
}

function store(cell: Cell, x: Float32Array): void {
  if (cell.scale) storeJustInTime(cell, x);
  else storePlain(cell, x);
}

export function random_normal({ y, n, std, seed, stream, offset }: CellsOf<RandomNormalArgs>): void {
  const out = f32Of(y);
  for (let i = 0; i < n; i++) out[i] = normalAt(seed, stream, offset + i) * f(std);
}
