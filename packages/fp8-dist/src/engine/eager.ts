// The end of a small collective: all data came with the announcements.
import type { CommMath } from '../math/math.ts';
import type { Plan } from './plan.ts';
import { outScale } from './scales.ts';

/**
 * Sums or copies what came into the output.
 * @param data by rank, what it announced; `plan.eagerLength` bytes each
 * @param ratios by rank, the factors to the shared scales
 */
export function finishEager(
  plan: Plan,
  data: readonly (Uint8Array | null)[],
  ratios: readonly (Float64Array | null)[],
  math: CommMath,
): void {
  if (plan.reduces) return sumUp(plan, data as readonly Uint8Array[], ratios, math);
  const { outBounds, bounds } = plan.request;
  const { output } = plan;
  for (let i = 0; i < plan.size; i++) {
    const [begin, end] = plan.share(i, outBounds ?? bounds);
    const bytes = data[i];
    if (end <= begin || !bytes) continue;
    output.write(begin, end, output.rescaled(begin, end, bytes, ratios[i], math));
  }
}

function sumUp(
  plan: Plan,
  data: readonly Uint8Array[],
  ratios: readonly (Float64Array | null)[],
  math: CommMath,
): void {
  const { code, dtype, reduce, steps } = plan.request;
  const { input, me, size } = plan;
  const [begin, end] = code === 'allReduce' ? [0, input.size] : plan.share(me);
  if (end <= begin) return;
  const parts = data.map((d, i) => input.rescaled(begin, end, d, ratios[i], math));
  const sum = Buffer.allocUnsafe((end - begin) * input.width);
  const scale = outScale(plan);
  if (code === 'reduceScatter') math.reduce(sum, inStepOrder(plan, parts), dtype, reduce, scale, steps);
  else if (!steps) math.reduce(sum, parts, dtype, reduce, scale, false);
  else {
    // The order of a reduction that rounds at every step depends on the owner of the share, as in a ring.
    for (let owner = 0; owner < size; owner++) {
      const [from, to] = plan.share(owner).map((x) => x * input.width);
      if (to <= from) continue;
      const cut = inStepOrder(
        plan,
        parts.map((p) => p.subarray(from, to)),
        owner,
      );
      math.reduce(sum.subarray(from, to), cut, dtype, reduce, scale, true);
    }
  }
  plan.output.write(begin - plan.outputShift, end - plan.outputShift, sum);
}

/** Parts in the order in which they are added: rank order, or from the owner's next on where every addition rounds. */
export function inStepOrder(plan: Plan, parts: Uint8Array[], owner = plan.me): Uint8Array[] {
  return plan.request.steps ? parts.map((_, i) => parts[(owner + 1 + i) % plan.size]) : parts;
}
