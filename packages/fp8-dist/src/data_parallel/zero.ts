// ZeRO's way back: after an update, weights go from their owners to all ranks, in the dtype they are stored in: scaled FP16
// under O1 and O2, FP8 under O3.
import { type DType, dtypes, type Parameter, persist, scaleSlot, type Tensor } from 'fp8-core';
import type { Group } from '../group.ts';
import { waitAll, type Work } from '../work.ts';
import type { Piece } from './pieces.ts';

/** Tensors in one exchange, at most. */
const maxTensors = 1024;

/** @param pieces of all parameters */
export function publishWeights(pieces: readonly Piece[], group: Group): void {
  const byOwner = pieces.toSorted((a, b) => a.owner - b.owner);
  const works: Work[] = [];
  const views: Tensor[] = [];
  for (const dtype of new Set(byOwner.map(({ parameter }) => parameter.data.dtype))) {
    const list = byOwner.filter(({ parameter }) => parameter.data.dtype === dtype);
    for (let i = 0; i < list.length; i += maxTensors) {
      const part = list.slice(i, i + maxTensors);
      const tensors = part.map(({ parameter, rows }) => persist(() => parameter.data.slice(...rows)));
      views.push(...tensors);
      works.push(
        group.gatherFromOwners(
          tensors,
          part.map(({ owner }) => owner),
        ),
      );
    }
  }
  waitAll(works);
  for (const view of views) view.release();
  publishFacts(byOwner, group);
}

const isScaled = (dtype: DType): boolean => dtypes[dtype].scaled;
const numFacts = 3;

/** What goes with a weight: mu, and of its scale block the amax and the saturation, which later casts of the weight rely on. */
function publishFacts(byOwner: readonly Piece[], group: Group): void {
  // Only what has one owner has any: tensors with a scale are never cut.
  const list = byOwner.filter(({ parameter: p }) => p.mu || isScaled(p.data.dtype));
  if (list.length === 0) return;
  const facts = new Float32Array(numFacts * list.length);
  list.forEach(({ parameter, owner }, i) => {
    if (owner === group.rank) facts.set(factsOf(parameter), numFacts * i);
  });
  const shares = group.ranks.map((_, rank) => {
    const begin = list.findIndex(({ owner }) => owner >= rank);
    const end = list.findIndex(({ owner }) => owner > rank);
    const at = (index: number): number => numFacts * (index < 0 ? list.length : index);
    return facts.slice(at(begin), at(end));
  });
  group
    .gatherFromOwners(
      shares,
      shares.map((_, rank) => rank),
    )
    .wait();
  const received = Float32Array.from(shares.flatMap((share) => [...share]));
  list.forEach(({ parameter, owner }, i) => {
    if (owner !== group.rank) takeFacts(parameter, received.slice(numFacts * i, numFacts * (i + 1)));
  });
}

function factsOf({ mu, data, backend }: Parameter): Float32Array {
  const facts = new Float32Array(numFacts);
  if (mu) backend.read(mu.handle, new Uint8Array(facts.buffer, 0, 4));
  if (isScaled(data.dtype)) facts.set(backend.readScale(data.handle).subarray(scaleSlot.amax), 1);
  return facts;
}

function takeFacts({ mu, data, backend }: Parameter, facts: Float32Array): void {
  if (mu) backend.write(mu.handle, new Uint8Array(facts.slice(0, 1).buffer));
  if (!isScaled(data.dtype)) return;
  const block = backend.readScale(data.handle);
  block.set(facts.subarray(1), scaleSlot.amax);
  backend.writeScale(data.handle, block);
}
