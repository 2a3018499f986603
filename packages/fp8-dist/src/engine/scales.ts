// The scales of a collective of a scaled dtype (FP8-LM, section 3.2 of arXiv:2310.18313): the shared scale of a tensor is the
// minimum over the ranks; each rank rounds its part to it before sending; the division by the number of ranks goes into the
// scale. Tensors that one rank alone provides keep its scale.
import type { Plan } from './plan.ts';

export interface SharedScales {
  /** The result's scale of each segment; empty for unscaled dtypes. */
  final: Float32Array;
  /** By rank, the factors from its own scales to the shared ones; null: none differs from 1. */
  ratios: readonly (Float64Array | null)[];
}

/** Factor on a sum before it is stored. */
export function outScale(plan: Plan): number {
  const { reduce, mean, range, dtype } = plan.request;
  if (reduce !== 'sum') return 1;
  if (plan.descriptor.scales.length) return range === 'fit' ? 2 ** -Math.ceil(Math.log2(plan.size)) : 1;
  return mean && dtype !== 'i32' ? 1 / plan.size : 1;
}

/** @param announced the scales that each rank announced */
export function shareScales(plan: Plan, announced: readonly Float32Array[]): SharedScales {
  const own = announced[plan.me];
  const n = own.length;
  if (n === 0) return { final: own, ratios: announced.map(() => null) };
  const { bounds, code, mean, out } = plan.request;
  const final = new Float32Array(n);
  const factors = announced.map(() => new Float64Array(n));
  for (let s = 0; s < n; s++) {
    const owner = plan.reduces ? -1 : code === 'send' ? 0 : soleOwner(plan, s);
    const shared = announced.reduce((least, scales) => Math.min(least, scales[s]), Infinity);
    final[s] = owner >= 0 ? announced[owner][s] : shared;
    factors.forEach((f, rank) => {
      f[s] = owner >= 0 ? 1 : shared / announced[rank][s];
    });
    if (plan.reduces) final[s] *= outScale(plan) * (mean ? plan.size : 1);
    if (code === 'reduceScatter' && !out) {
      const { starts } = plan.input;
      const mine = starts[s] >= bounds[plan.me] && starts[s + 1] <= bounds[plan.me + 1];
      if (!mine) final[s] = own[s];
    }
  }
  return { final, ratios: factors.map((f) => (f.some((r) => r !== 1) ? f : null)) };
}

/** The one rank whose share holds all of segment s, or -1. */
function soleOwner(plan: Plan, s: number): number {
  const { bounds, code, root } = plan.request;
  if (code === 'broadcast') return root;
  if (code !== 'allGather') return -1;
  const begin = plan.output.starts[s];
  const end = plan.output.starts[s + 1];
  for (let i = 0; i < plan.size; i++) if (begin >= bounds[i] && end <= bounds[i + 1] && end > begin) return i;
  return -1;
}
