// The optimizer's kernels. AdamW (Loshchilov and Hutter 2019) is bit-exact: constants in float64 rounded once, one rounding
// after each float32 operation. States are stored just in time scaled; master weights too (FP8-LM, Peng et al. 2023).
import type { AdamwArgs, ClipControlArgs, RandomNormalArgs, SumSquaresArgs } from '../../kernels.gen.ts';
import { scaleSlot } from '../../dtype.ts';
import { normalAt } from '../../random.ts';
import type { CellsOf } from '../check.ts';
import { type Cell, HostMemory } from '../host.ts';
import { amaxOf, f32Of, load, storeJustInTime, storePlain, storeScaled } from './cells.ts';

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
  const { n, phase } = a;
  checkPhase(phase, a.amaxes);
  if (skip !== 0) return;
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
  const target = a.master ?? a.w;
  if (phase === 1 && a.amaxes) {
    const needed = [a.w.scale || target.scale, a.m.scale, a.v.scale];
    return f32Of(a.amaxes).set([p, m, v].map((x, i) => (needed[i] ? amaxOf(x) : 0)));
  }
  const [amaxP, amaxM, amaxV] = phase === 2 && a.amaxes ? f32Of(a.amaxes) : [null, null, null];
  store(a.m, m, amaxM);
  store(a.v, v, amaxV);
  store(target, p, amaxP);
  // The weight is a cast of the master as stored, so that weights can be rebuilt from masters alone.
  if (a.master) storeWeight(a.w, a.master, n, amaxP);
}

/** @throws RangeError for a phase that is none, or that lacks its amaxes */
function checkPhase(phase: number, amaxes: Cell | null): void {
  if (phase > 2) throw new RangeError(`adamw: phase is ${phase}; expected 0, 1 or 2`);
  if (phase > 0 && !amaxes) throw new RangeError(`adamw: phase ${phase} needs amaxes; expected f32 [3]`);
}

function store(cell: Cell, x: Float32Array, amax: number | null): void {
  if (cell.scale) storeJustInTime(cell, x, 1, 0, null, amax);
  else storePlain(cell, x);
}

/** Of a shard: the amax of the whole stored master is the stored amax of the whole. One not finite was clamped: measured. */
function storeWeight(w: Cell, master: Cell, n: number, amaxP: number | null): void {
  store(w, load(master, n), amaxP !== null && Number.isFinite(amaxP) ? storedValue(master, amaxP) : null);
}

/** x as `master` would hold it. */
function storedValue(master: Cell, x: number): number {
  const one = new HostMemory(true);
  const cell = one.get(one.alloc(master.dtype, 1), 'adamw');
  const values = Float32Array.of(x);
  if (master.scale) storeScaled(cell, values, master.scale[scaleSlot.scale], x, 0);
  else storePlain(cell, values);
  return load(cell, 1)[0];
}

export function random_normal({ y, n, std, seed, stream, offset }: CellsOf<RandomNormalArgs>): void {
  const out = f32Of(y);
  for (let i = 0; i < n; i++) out[i] = normalAt(seed, stream, offset + i) * f(std);
}
