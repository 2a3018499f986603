// A bucket: gradients that travel in one exchange.
import { empty, inCategory, type Parameter, persist, type Tensor } from 'fp8-core';
import type { Group } from '../group.ts';
import type { Work } from '../work.ts';

export class Bucket {
  readonly parameters: readonly Parameter[];
  private readonly group: Group;
  private readonly owners: readonly number[] | null;
  private work: Work | null = null;
  /** BF16 copies of float32 gradients on their way. */
  private copies: (Tensor | null)[] = [];

  /**
   * @param parameters of one payload dtype
   * @param ownerOf group rank of a parameter's owner; null reduces to all ranks
   */
  constructor(parameters: readonly Parameter[], group: Group, ownerOf: ((p: Parameter) => number) | null) {
    // An exchange to owners wants its tensors in the owners' order.
    this.parameters = ownerOf ? parameters.toSorted((a, b) => ownerOf(a) - ownerOf(b)) : parameters;
    this.owners = ownerOf ? this.parameters.map(ownerOf) : null;
    this.group = group;
  }

  get isStarted(): boolean {
    return this.work !== null;
  }

  /** True when `finish` would not sleep. */
  get isArrived(): boolean {
    return this.work?.isDone ?? false;
  }

  /** Sends the gradients off. @throws Error if a parameter has none: all ranks must reduce the same tensors */
  start(): void {
    const tensors = this.parameters.map((p) => {
      if (!p.grad)
        throw new Error(
          `internal: parameter ${p.name} got no gradient in this step; data parallelism needs one of each`,
        );
      return p.grad;
    });
    this.copies = this.parameters.map((p, i) => (p.format.gradPayload === 'bf16' ? toBf16(tensors[i]) : null));
    const payload = tensors.map((t, i) => this.copies[i] ?? t);
    // The division by the number of ranks: in FP8 it goes into the scale, whose shared minimum stays (FP8-LM, equations 4 to 6).
    const options = { op: 'mean', range: 'keep' } as const;
    this.work = this.owners
      ? this.group.reduceToOwners(payload, this.owners, options)
      : this.group.allReduce(payload, options);
  }

  /** Waits until the gradients of this rank are the means over all. */
  finish(): void {
    this.work?.wait();
    this.work = null;
    this.parameters.forEach((p, i) => {
      const copy = this.copies[i];
      if (!copy || !p.grad) return;
      const isMine = !this.owners || this.owners[i] === this.group.rank;
      if (isMine) p.backend.kernels.cast({ y: p.grad, x: copy, n: p.size, random: 0 });
      copy.release();
    });
    this.copies = [];
  }
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
