// A bucket: gradients that travel in one exchange.
import { dtypes, empty, inCategory, type Parameter, persist, scaleSlot, scope, type Tensor } from 'fp8-core';
import type { Group } from '../group.ts';
import type { Work } from '../work.ts';
import type { Piece } from './pieces.ts';

export class Bucket {
  readonly parameters: readonly Parameter[];
  private readonly group: Group;
  /** What goes to which owner, in the owners' order; null reduces to all ranks. */
  private readonly pieces: readonly Piece[] | null;
  private work: Work | null = null;
  /** BF16 copies of float32 gradients on their way. */
  private readonly copies = new Map<Parameter, Tensor>();
  private views: Tensor[] = [];

  /**
   * @param parameters of one payload dtype
   * @param piecesOf the owners of a parameter's rows; null reduces to all ranks
   */
  constructor(parameters: readonly Parameter[], group: Group, piecesOf: ((p: Parameter) => Piece[]) | null) {
    this.parameters = parameters;
    this.pieces = piecesOf ? parameters.flatMap(piecesOf).sort((a, b) => a.owner - b.owner) : null;
    this.group = group;
  }

  /** True when `finish` would not sleep. */
  get isArrived(): boolean {
    return this.work?.isDone ?? false;
  }

  /** Sends the gradients off. @throws Error if a parameter has none: all ranks must reduce the same tensors */
  start(): void {
    for (const p of this.parameters) {
      if (!p.grad)
        throw new Error(
          `internal: parameter ${p.name} got no gradient in this step; data parallelism needs one of each`,
        );
      if (p.format.gradPayload === 'bf16' && p.grad.dtype !== 'bf16') this.copies.set(p, toBf16(p.grad));
      if (dtypes[p.grad.dtype].scaled) yieldScale(p.grad);
    }
    // The division by the number of ranks: in FP8 it goes into the scale, whose shared minimum stays (FP8-LM, equations 4 to 6).
    const options = { op: 'mean', range: 'keep' } as const;
    if (!this.pieces) {
      this.work = this.group.allReduce(this.parameters.map(this.payloadOf), options);
      return;
    }
    this.views = this.pieces.map(({ parameter, rows }) => persist(() => this.payloadOf(parameter).slice(...rows)));
    this.work = this.group.reduceToOwners(
      this.views,
      this.pieces.map(({ owner }) => owner),
      options,
    );
  }

  private readonly payloadOf = (p: Parameter): Tensor => this.copies.get(p) ?? (p.grad as Tensor);

  /** Waits until the gradients of this rank are the means over all. */
  finish(): void {
    this.work?.wait();
    this.work = null;
    for (const view of this.views) view.release();
    this.views = [];
    for (const [p, copy] of this.copies) {
      for (const rows of this.rowsToKeep(p)) {
        scope(() => {
          const y = (p.grad as Tensor).slice(...rows);
          p.backend.kernels.cast({ y, x: copy.slice(...rows), n: y.size, random: 0 });
        });
      }
      copy.release();
    }
    this.copies.clear();
  }

  private rowsToKeep(p: Parameter): (readonly [number, number])[] {
    if (!this.pieces) return [[0, p.shape[0]]];
    return this.pieces.filter((x) => x.parameter === p && x.owner === this.group.rank).map(({ rows }) => rows);
  }
}

/** A gradient that is all zeros fits any scale: it must not keep the shared minimum, which is the others', small. */
function yieldScale(grad: Tensor): void {
  const block = grad.backend.readScale(grad.handle);
  if (block[scaleSlot.amax] !== 0) return;
  block[scaleSlot.scale] = 2 ** 100;
  block[scaleSlot.scaleInv] = 2 ** -100;
  grad.backend.writeScale(grad.handle, block);
}

function toBf16(x: Tensor): Tensor {
  const y = persist(() => inCategory('communication', () => empty(x.backend, x.shape, 'bf16')));
  x.backend.kernels.cast({ y, x, n: x.size, random: 0 });
  return y;
}

/** Tensors in one exchange, at most. */
const maxTensors = 1024;

/**
 * Cuts parameters into buckets of one payload dtype and about `bucketBytes` each, in the order in which backward completes them:
 * from the last parameter to the first.
 */
export function cutIntoBuckets(parameters: readonly Parameter[], bucketBytes: number): Parameter[][] {
  const width = { f32: 4, bf16: 2, e4m3: 1 };
  const filling = new Map<string, { members: Parameter[]; bytes: number }>();
  const buckets: Parameter[][] = [];
  for (const p of parameters.toReversed()) {
    const payload = p.format.gradPayload;
    const bucket = filling.get(payload) ?? { members: [], bytes: 0 };
    if (bucket.members.length === 0) buckets.push(bucket.members);
    filling.set(payload, bucket);
    bucket.members.push(p);
    bucket.bytes += p.size * width[payload];
    if (bucket.bytes >= bucketBytes || bucket.members.length === maxTensors) filling.delete(payload);
  }
  // By the member that is complete last.
  const index = new Map(parameters.map((p, i) => [p, i]));
  const last = (members: Parameter[]): number => index.get(members[members.length - 1]) as number;
  return buckets.sort((a, b) => last(b) - last(a));
}
