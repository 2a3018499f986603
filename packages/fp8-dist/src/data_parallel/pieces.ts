// Who owns what: each parameter, or each part of a large one, has one rank of the data group as its owner.
import { type Parameter, sizeOf } from 'fp8-core';
import type { Rows } from 'fp8-optim';
import { placeWhole } from './placement.ts';

/** Rows of a parameter that one rank owns. */
export interface Piece {
  readonly parameter: Parameter;
  /** Rank in the data group. */
  readonly owner: number;
  readonly rows: Rows;
}

/**
 * Places parameters whole, largest first, and cuts what no rank could take without more than its share: a tensor larger than
 * 1/ranks of everything, such as an embedding of a small model, goes to all ranks by rows. Its moments keep one scale (AdamW
 * measures, exchanges, applies), so a cut changes no bit. Only tensors whose weight has no scale are cut. A tied weight that
 * two pipeline stages hold is cut always, for then both stages cut it alike. Tensor-parallel ranks place alike, though their
 * shares of a vocabulary may differ: what they all hold whole must have one owner, where their gradients meet.
 * @returns the pieces of each parameter, by owner
 */
export function placePieces(parameters: readonly Parameter[], ranks: number): Map<Parameter, Piece[]> {
  const share = parameters.reduce((sum, p) => sum + stateBytes(p), 0) / ranks;
  const isCut = (p: Parameter): boolean =>
    ranks > 1 && leastRows(p) >= ranks && canBeCut(p) && (p.tied !== null || stateBytes(p) > share);
  const whole = parameters.filter((p) => !isCut(p));
  const owners = placeWhole(whole.map(stateBytes), ranks);
  const pieces = new Map<Parameter, Piece[]>();
  for (const parameter of parameters) {
    if (isCut(parameter)) pieces.set(parameter, cutRows(parameter, ranks));
    else pieces.set(parameter, [{ parameter, owner: owners[whole.indexOf(parameter)], rows: [0, parameter.shape[0]] }]);
  }
  return pieces;
}

const canBeCut = ({ format, shape, shard }: Parameter): boolean =>
  shape.length > 1 &&
  (format.weight === 'f32' || format.weight === 'bf16') &&
  format.master !== 'f16' &&
  format.grad === 'f32' &&
  (!shard || (shard.dim === 0 && shard.ranges.length === 1));

function cutRows(parameter: Parameter, ranks: number): Piece[] {
  const [rows] = parameter.shape;
  const at = (rank: number): number => Math.floor((rows * rank) / ranks);
  return Array.from({ length: ranks }, (_, owner) => ({ parameter, owner, rows: [at(owner), at(owner + 1)] }));
}

/** Rows that every tensor-parallel rank has at least: no share is less than half of an even one. */
const leastRows = ({ shape, wholeShape, shard }: Parameter): number =>
  shard ? Math.floor(wholeShape[0] / (2 * shard.group.size)) : shape[0];

/** Bytes that only the owner of a parameter keeps: master and moments; of an even share where ranks hold parts of it. */
function stateBytes({ format, wholeShape, shard }: Parameter): number {
  const width = { f32: 4, bf16: 2, f16: 2, e4m3: 1, e5m2: 1 };
  const elements = sizeOf(wholeShape) / (shard?.group.size ?? 1);
  return elements * ((format.master ? width[format.master] : 0) + width[format.m] + width[format.v]);
}
