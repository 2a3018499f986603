// Data parallelism: ranks hold the same weights, see other sequences, and step with the mean of their gradients.
//
//   begin()     before the first micro-batch of a step
//   afterOp()   during backwards: sends each bucket off as soon as its gradients are complete, in one order on all ranks, while
//               backward goes on
//   finish()    after the last: waits until the gradients are the means, then sums what several ranks of a model share
//
// Then AdamW steps, with this object as its exchange. Without ZeRO every rank updates every parameter, from the same bits to the
// same bits. FP8 gradients travel as they are stored, one byte an element: shared scale = minimum of the ranks', division by the
// number of ranks folded into it; the factor mu that keeps their sum in range starts at 1/sqrt(ranks) and follows the saturation
// of the *reduced* gradient (FP8-LM, section 3.2, arXiv:2310.18313).
//
// With ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054), each parameter has an owner, which alone keeps master and moments
// (pieces.ts): gradients go to the owner, weights come back from it (zero.ts). Stage 2 also frees gradients that this rank does not own.
import { type Parameter, scope, type Tensor } from 'fp8-core';
import { allRows, type OptimizerExchange, type Rows } from 'fp8-optim';
import type { Mesh } from '../mesh.ts';
import { sumNumbers } from '../numbers.ts';
import { Bucket, cutIntoBuckets } from './bucket.ts';
import { type Piece, placePieces } from './pieces.ts';
import { publishWeights } from './zero.ts';

export interface DataParallelOptions {
  /** 0: all ranks keep all states; 1: states are sharded; 2: gradients too. Default 0. */
  zero?: 0 | 1 | 2;
  /** Bytes of a bucket on the wire. Default 4 MiB. */
  bucketBytes?: number;
}

export class DataParallel implements OptimizerExchange {
  readonly mesh: Mesh;
  readonly zero: 0 | 1 | 2;
  private readonly parameters: readonly Parameter[];
  /** Who owns which rows of a parameter; without ZeRO who measures their gradient. */
  private readonly pieces: ReadonlyMap<Parameter, readonly Piece[]>;
  private readonly buckets: readonly Bucket[];
  /** How often a step asks for each gradient, whatever the order of its micro-batches; learned in the first step. */
  private uses: ReadonlyMap<Parameter, number> | null = null;
  private nextBucket = 0;
  private oldestBucket = 0;

  /** Frees masters that other ranks own, and lets mu start at 1 / sqrt(ranks). */
  constructor(parameters: readonly Parameter[], mesh: Mesh, options: DataParallelOptions = {}) {
    const { zero = 0, bucketBytes = 4 * 2 ** 20 } = options;
    const { dp } = mesh;
    this.mesh = mesh;
    this.zero = dp.size === 1 ? 0 : zero;
    this.parameters = parameters;
    this.pieces = placePieces(parameters, dp.size);
    const piecesOf = this.zero ? (p: Parameter) => [...this.piecesOf(p)] : null;
    this.buckets =
      dp.size === 1 ? [] : cutIntoBuckets(parameters, bucketBytes).map((members) => new Bucket(members, dp, piecesOf));
    for (const p of parameters) {
      const rows = this.ownedRows(p);
      if (!rows) p.releaseMaster();
      else p.keepMasterRows(...rows);
      if (p.mu && dp.size > 1) p.backend.kernels.fill({ y: p.mu, n: 1, value: 1 / Math.sqrt(dp.size) });
    }
  }

  /** By owner. */
  private piecesOf(p: Parameter): readonly Piece[] {
    return this.pieces.get(p) as readonly Piece[];
  }

  private ownPiece(p: Parameter): Piece | undefined {
    return this.piecesOf(p).find(({ owner }) => owner === this.mesh.dp.rank);
  }

  // --- a step ------------------------------------------------------------------------------------------------------------------

  begin(): void {
    this.nextBucket = 0;
    this.oldestBucket = 0;
  }

  /** For the tape: after each op's backward of the last micro-batch. */
  readonly afterOp = (): void => {
    const { uses } = this;
    if (!uses) return;
    while (this.nextBucket < this.buckets.length) {
      const bucket = this.buckets[this.nextBucket];
      if (!bucket.parameters.every((p) => p.gradUses >= (uses.get(p) as number))) break;
      bucket.start();
      this.nextBucket++;
    }
    // What has arrived may be freed now, while backward still makes more.
    while (this.zero === 2 && this.oldestBucket < this.nextBucket && this.buckets[this.oldestBucket].isArrived)
      this.finishBucket();
  };

  finish(): void {
    const used = new Map(this.parameters.map((p) => [p, p.gradUses]));
    if (this.uses) this.checkUses(used);
    this.uses = used;
    for (; this.nextBucket < this.buckets.length; this.nextBucket++) this.buckets[this.nextBucket].start();
    while (this.oldestBucket < this.buckets.length) this.finishBucket();
    scope(() => this.sumShared());
  }

  /**
   * Megatron's order: what every tensor-parallel rank holds but sees only a part of (under sequence parallelism), in one exchange;
   * then the two copies of a tied embedding.
   */
  private sumShared(): void {
    const { tp, embedding } = this.mesh;
    const gradients = (which: (p: Parameter) => boolean): Tensor[] =>
      this.parameters.flatMap((p) => {
        const rows = this.ownedRows(p);
        if (!which(p) || !rows || !p.grad) return [];
        return [p.grad.shape[0] === rows[1] - rows[0] ? p.grad : p.grad.slice(...rows)];
      });
    if (tp.size > 1) {
      const shared = gradients((p) => p.sumGrad);
      for (const dtype of new Set(shared.map((g) => g.dtype)))
        tp.allReduce(shared.filter((g) => g.dtype === dtype)).wait();
    }
    const tied = gradients((p) => p.tied !== null);
    if (embedding && tied.length) embedding.allReduce(tied).wait();
  }

  private finishBucket(): void {
    const bucket = this.buckets[this.oldestBucket++];
    bucket.finish();
    if (this.zero < 2) return;
    for (const p of bucket.parameters) {
      const rows = this.ownedRows(p);
      if (rows) p.keepGradRows(...rows);
      else p.releaseGrad();
    }
  }

  /** A gradient that was added to after it had been sent would be wrong without a word. */
  private checkUses(used: ReadonlyMap<Parameter, number>): void {
    for (const [p, n] of this.uses as ReadonlyMap<Parameter, number>) {
      if (used.get(p) === n) continue;
      throw new Error(
        `internal: data parallelism: ${p.name} was used ${used.get(p)} times in this step, ${n} times before; every step must run the same ops`,
      );
    }
  }

  // --- the optimizer's exchange --------------------------------------------------------------------------------------------------

  ownedRows(p: Parameter): Rows | null {
    return this.zero === 0 ? allRows(p) : (this.ownPiece(p)?.rows ?? null);
  }

  /** On the owner; what all tensor-parallel ranks hold on the first of them; of a tied weight the first copy. */
  measuredRows(p: Parameter): Rows | null {
    if (p.tied === 'last' || (p.shard === null && this.mesh.tp.rank !== 0)) return null;
    return this.ownPiece(p)?.rows ?? null;
  }

  sum(sums: Tensor): void {
    const { dp, model } = this.mesh;
    dp.allReduce(sums).wait();
    if (model.size === 1) return;
    // Ranks of a model hold other parameters; what they have in common is the total.
    const values = new Float32Array(sums.size);
    sums.backend.read(sums.handle, new Uint8Array(values.buffer));
    const [total] = sumNumbers(model, [values.reduce((a, b) => a + b, 0)]);
    values.fill(0);
    values[0] = total;
    sums.backend.write(sums.handle, new Uint8Array(values.buffer));
  }

  publish(): void {
    if (this.zero) publishWeights([...this.pieces.values()].flat(), this.mesh.dp);
  }

  sharesScale(p: Parameter): boolean {
    return p.shard !== null || (this.zero > 0 && this.piecesOf(p).length > 1);
  }

  maxOverParts(values: Float32Array): void {
    this.mesh.tpDp.allReduce(values, { op: 'max' }).wait();
  }

  sumOverParts(values: Float32Array): void {
    this.mesh.tpDp.allReduce(values).wait();
  }

  /** For `ScalingState.update`: ranks keep the same windows. */
  readonly reduceMax = (amaxes: Float32Array): void => {
    this.mesh.tpDp.allReduce(amaxes, { op: 'max' }).wait();
  };
}
