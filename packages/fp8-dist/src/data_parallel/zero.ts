// ZeRO's way back: after an update, weights go from their owners to all ranks, in the dtype they are stored in: scaled FP16
// under O1 and O2, FP8 under O3.
import { type DType, dtypes, type Parameter, scaleSlot } from 'fp8-core';
import type { Group } from '../group.ts';
import { waitAll } from '../work.ts';

/** Tensors in one exchange, at most. */
const maxTensors = 1024;

/** @param ownerOf group rank of a parameter's owner */
export function publishWeights(
  parameters: readonly Parameter[],
  group: Group,
  ownerOf: (p: Parameter) => number,
): void {
  const byOwner = parameters.toSorted((a, b) => ownerOf(a) - ownerOf(b));
  const works = [];
  for (const dtype of new Set(byOwner.map((p) => p.data.dtype))) {
    const list = byOwner.filter((p) => p.data.dtype === dtype);
    for (let i = 0; i < list.length; i += maxTensors) {
      const part = list.slice(i, i + maxTensors);
      works.push(
        group.gatherFromOwners(
          part.map((p) => p.data),
          part.map(ownerOf),
        ),
      );
    }
  }
  waitAll(works);
  publishFacts(byOwner, group, ownerOf);
}

/** What goes with a weight: mu, and of its scale block the amax and the saturation, which later casts of the weight rely on. */
function publishFacts(byOwner: readonly Parameter[], group: Group, ownerOf: (p: Parameter) => number): void {
  const isScaled = (dtype: DType): boolean => dtypes[dtype].scaled;
  const facts = byOwner.map((p) => {
    const values = new Float32Array(3);
    if (p.mu) p.backend.read(p.mu.handle, new Uint8Array(values.buffer, 0, 4));
    if (isScaled(p.data.dtype)) values.set(p.backend.readScale(p.data.handle).subarray(scaleSlot.amax), 1);
    return values;
  });
  const counts: number[] = Array(group.size).fill(0);
  for (const p of byOwner) counts[ownerOf(p)]++;
  const all = new Float32Array(3 * byOwner.length);
  facts.forEach((values, i) => all.set(values, 3 * i));
  let begin = 0;
  const shares = counts.map((n) => all.slice(3 * begin, 3 * (begin += n)));
  group
    .gatherFromOwners(
      shares,
      shares.map((_, rank) => rank),
    )
    .wait();
  const received = shares.flatMap((share) => [...share]);
  byOwner.forEach((p, i) => {
    if (ownerOf(p) === group.rank) return;
    const values = Float32Array.from(received.slice(3 * i, 3 * i + 3));
    if (p.mu) p.backend.write(p.mu.handle, new Uint8Array(values.buffer, 0, 4).slice());
    if (!isScaled(p.data.dtype)) return;
    const block = p.backend.readScale(p.data.handle);
    block.set(values.subarray(1), scaleSlot.amax);
    p.backend.writeScale(p.data.handle, block);
  });
}
