// Data parallelism: ranks hold the same weights, see other sequences, and step with the mean of their gradients.
//
//   begin()     before the last micro-batch of a step
//   afterOp()   during its backward: sends each bucket off as soon as its gradients are complete, in one order on all ranks,
//               while backward goes on
//   finish()    after it: waits until the gradients are the means
//
// Then AdamW steps, with this object as its exchange. Without ZeRO every rank updates every parameter, from the same bits to the
// same bits. FP8 gradients travel as they are stored, one byte an element: shared scale = minimum of the ranks', division by the
// number of ranks folded into it; the factor mu that keeps their sum in range starts at 1/sqrt(ranks) and follows the saturation
// of the *reduced* gradient (FP8-LM, section 3.2, arXiv:2310.18313).
//
// With ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054), each parameter has an owner, which alone keeps master and moments: gradients
// go to the owner, weights come back from it (zero.ts). Stage 2 also frees gradients that this rank does not own.
import type { Parameter, Tensor } from 'fp8-core';
import type { OptimizerExchange } from 'fp8-optim';
import type { Mesh } from '../mesh.ts';
import { Bucket, cutIntoBuckets } from './bucket.ts';
import { placeWhole } from './placement.ts';
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
  /** Rank in the data group that owns each parameter; without ZeRO the one that measures its gradient. */
  private readonly owners: ReadonlyMap<Parameter, number>;
  private readonly buckets: readonly Bucket[];
  /** How often a micro-batch asks for each gradient; learned in the first step. */
  private uses: ReadonlyMap<Parameter, number> | null = null;
  private usesBefore: ReadonlyMap<Parameter, number> = new Map();
  private nextBucket = 0;
  private oldestBucket = 0;

  /** Frees masters that other ranks own, and lets mu start at 1 / sqrt(ranks). */
  constructor(parameters: readonly Parameter[], mesh: Mesh, options: DataParallelOptions = {}) {
    const { zero = 0, bucketBytes = 4 * 2 ** 20 } = options;
    const { dp } = mesh;
    this.mesh = mesh;
    this.zero = dp.size === 1 ? 0 : zero;
    this.parameters = parameters;
    const owners = placeWhole(parameters.map(stateBytes), dp.size);
    this.owners = new Map(parameters.map((p, i) => [p, owners[i]]));
    const ownerOf = this.zero ? this.ownerOf : null;
    this.buckets =
      dp.size === 1 ? [] : cutIntoBuckets(parameters, bucketBytes).map((members) => new Bucket(members, dp, ownerOf));
    for (const p of parameters) {
      if (!this.owns(p)) p.releaseMaster();
      if (p.mu && dp.size > 1) p.backend.kernels.fill({ y: p.mu, n: 1, value: 1 / Math.sqrt(dp.size) });
    }
  }

  /** Rank in the data group that owns a parameter. */
  readonly ownerOf = (p: Parameter): number => this.owners.get(p) as number;

  // --- a step ------------------------------------------------------------------------------------------------------------------

  begin(): void {
    if (this.buckets.length === 0) return;
    this.usesBefore = this.countUses();
    this.nextBucket = 0;
    this.oldestBucket = 0;
  }

  /** For the tape: after each op's backward of the last micro-batch. */
  readonly afterOp = (): void => {
    const { uses } = this;
    if (!uses) return;
    while (this.nextBucket < this.buckets.length) {
      const bucket = this.buckets[this.nextBucket];
      const isComplete = bucket.parameters.every(
        (p) => p.gradUses - (this.usesBefore.get(p) as number) >= (uses.get(p) as number),
      );
      if (!isComplete) break;
      bucket.start();
      this.nextBucket++;
    }
    // What has arrived may be freed now, while backward still makes more.
    while (this.zero === 2 && this.oldestBucket < this.nextBucket && this.buckets[this.oldestBucket].isArrived)
      this.finishBucket();
  };

  finish(): void {
    if (this.buckets.length === 0) return;
    const used = new Map(this.parameters.map((p) => [p, p.gradUses - (this.usesBefore.get(p) as number)]));
    if (this.uses) this.checkUses(used);
    this.uses = used;
    for (; this.nextBucket < this.buckets.length; this.nextBucket++) this.buckets[this.nextBucket].start();
    while (this.oldestBucket < this.buckets.length) this.finishBucket();
  }

  private finishBucket(): void {
    const bucket = this.buckets[this.oldestBucket++];
    bucket.finish();
    if (this.zero < 2) return;
    for (const p of bucket.parameters) if (!this.owns(p)) p.releaseGrad();
  }

  private countUses(): Map<Parameter, number> {
    return new Map(this.parameters.map((p) => [p, p.gradUses]));
  }

  /** A gradient that was added to after it had been sent would be wrong without a word. */
  private checkUses(used: ReadonlyMap<Parameter, number>): void {
    for (const [p, n] of this.uses as ReadonlyMap<Parameter, number>) {
      if (used.get(p) === n) continue;
      throw new Error(
        `internal: data parallelism: ${p.name} was used ${used.get(p)} times in this step's last micro-batch, ${n} times before; every micro-batch must run the same ops`,
      );
    }
  }

  // --- the optimizer's exchange --------------------------------------------------------------------------------------------------

  owns(p: Parameter): boolean {
    return this.zero === 0 || this.ownerOf(p) === this.mesh.dp.rank;
  }

  measures(p: Parameter): boolean {
    return this.ownerOf(p) === this.mesh.dp.rank;
  }

  sum(sums: Tensor): void {
    this.mesh.dp.allReduce(sums).wait();
  }

  publish(): void {
    if (this.zero) publishWeights(this.parameters, this.mesh.dp, this.ownerOf);
  }

  /** For `ScalingState.update`: ranks keep the same windows. */
  readonly reduceMax = (amaxes: Float32Array): void => {
    this.mesh.tpDp.allReduce(amaxes, { op: 'max' }).wait();
  };
}

/** Bytes that only the owner of a parameter keeps: master and moments; what it takes besides decides among equals. */
function stateBytes({ format, size }: Parameter): number {
  const width = { f32: 4, bf16: 2, f16: 2, e4m3: 1, e5m2: 1 };
  return size * ((format.master ? width[format.master] : 0) + width[format.m] + width[format.v]);
}
