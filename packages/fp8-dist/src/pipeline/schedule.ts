// Pipeline schedules as lists: what one rank does in one step, in order. No network, no tensors; a simulator (simulate.ts) checks
// and times the lists, an executor (executor.ts) runs them.
//
// A model of pp * v equal parts lies on pp ranks, v chunks each: chunk c of rank r is part c * pp + r, so a micro-batch visits all
// ranks v times. A schedule is an order of forwards and backwards; the messages follow from it mechanically (`schedule`).
//
//   1f1b         warm-up of min(m, pp - r - 1) forwards, then one forward, one backward in turn, then the rest of the backwards
//   interleaved  the same over v chunks: bubble (pp - 1) / (v m + pp - 1), v times the messages
//   gpipe        all forwards, then all backwards: the same bubble as 1f1b, m micro-batches alive; for comparison
//
// Sources: Narayanan et al. 2021 (arXiv:2104.04473), section 2.2; warm-up counts and the chunk table as in Megatron Core.
import { UserError } from 'fp8-core';

export const scheduleNames = ['1f1b', 'interleaved', 'gpipe'] as const;
export type ScheduleName = (typeof scheduleNames)[number];

/** `recv*` and `send*` only start a message; `forward` and `backward` wait for their input; `free` waits for the output to be gone. */
export type PipelineOp =
  | 'recvForward'
  | 'forward'
  | 'sendForward'
  | 'recvBackward'
  | 'backward'
  | 'sendBackward'
  | 'freeForward'
  | 'freeBackward';

/** One thing to do, for micro-batch `micro` of this rank's chunk `chunk`. */
export interface Instruction {
  readonly op: PipelineOp;
  readonly micro: number;
  readonly chunk: number;
}

export interface ScheduleOptions {
  /** pp: ranks of the pipeline. */
  stages: number;
  /** m: micro-batches a step. */
  microbatches: number;
  /** v: chunks a rank; 1 except for `interleaved`. */
  virtual?: number;
  /** Default: `interleaved` when there are chunks, else `1f1b`. */
  name?: ScheduleName;
  /** Micro-batches that go through one chunk before the next; `interleaved` only. Default pp. */
  groupSize?: number;
  /** No backwards: for evaluation. Takes any number of micro-batches. */
  forwardOnly?: boolean;
}

/** Options with defaults filled in and checked. */
export interface SchedulePlan {
  readonly stages: number;
  readonly microbatches: number;
  readonly virtual: number;
  readonly name: ScheduleName;
  readonly groupSize: number;
  readonly forwardOnly: boolean;
}

/** A forward or a backward. */
export interface Compute {
  readonly op: 'forward' | 'backward';
  readonly micro: number;
  readonly chunk: number;
}

/** @throws UserError with the numbers where the schedule cannot be */
export function planSchedule(options: ScheduleOptions): SchedulePlan {
  const { stages, microbatches, virtual = 1, forwardOnly = false } = options;
  const name = options.name ?? (virtual > 1 ? 'interleaved' : '1f1b');
  const groupSize = options.groupSize ?? Math.min(stages, microbatches);
  if (!scheduleNames.includes(name))
    throw new UserError(`schedule: "${name}" is unknown; there are ${scheduleNames.join(', ')}`);
  for (const [key, value] of Object.entries({ stages, microbatches, virtual, groupSize })) {
    if (!Number.isInteger(value) || value < 1)
      throw new UserError(`schedule: ${key} is ${value}; need a whole number >= 1`);
  }
  if (name !== 'interleaved' && virtual > 1)
    throw new UserError(`schedule: ${name} has one chunk a rank, not ${virtual}; use interleaved`);
  if (virtual > 1 && stages === 1)
    throw new UserError(`schedule: ${virtual} chunks a rank need at least 2 pipeline stages, got 1`);
  if (name === 'interleaved' && !forwardOnly) {
    if (microbatches < stages)
      throw new UserError(
        `schedule: interleaved needs at least as many micro-batches as stages; ${microbatches} < ${stages}`,
      );
    const rest = microbatches % groupSize;
    if (groupSize < stages || groupSize > microbatches || (rest > 0 && rest < stages)) {
      throw new UserError(
        `schedule: ${microbatches} micro-batches in groups of ${groupSize} leave ${rest} on ${stages} stages; ` +
          `need groups of ${stages} to ${microbatches}, and a rest of 0 or at least ${stages} ` +
          `(${microbatches} micro-batches = n * ${stages})`,
      );
    }
  }
  return { stages, microbatches, virtual, name, groupSize, forwardOnly };
}

/** Forwards before the first backward of `rank`, by Megatron's formulas; the forward that is paired with it not counted. */
export function warmupForwards(plan: SchedulePlan, rank: number): number {
  const { stages, microbatches, virtual, name, groupSize } = plan;
  const all = microbatches * virtual;
  if (name === 'gpipe') return all;
  if (name === '1f1b') return Math.min(all, stages - rank - 1);
  return Math.min(all, 2 * (stages - rank - 1) + (virtual - 1) * groupSize);
}

/** Largest number of forwards of `rank` whose backward has not run: what bounds its activation memory, in chunks. */
export function peakInFlight(plan: SchedulePlan, rank: number): number {
  return Math.min(plan.microbatches * plan.virtual, warmupForwards(plan, rank) + 1);
}

/** Idle share of the step on equal parts: (pp - 1) / (v m + pp - 1). */
export function bubbleShare({ stages, microbatches, virtual }: SchedulePlan): number {
  return (stages - 1) / (virtual * microbatches + stages - 1);
}

/** The order in which the forwards of a rank visit (micro-batch, chunk): groups of micro-batches go through one chunk after another. */
function forwardTable({ microbatches, virtual, groupSize }: SchedulePlan): { micro: number; chunk: number }[] {
  const table: { micro: number; chunk: number }[] = [];
  for (let begin = 0; begin < microbatches; begin += groupSize) {
    const end = Math.min(microbatches, begin + groupSize);
    for (let chunk = 0; chunk < virtual; chunk++)
      for (let micro = begin; micro < end; micro++) table.push({ micro, chunk });
  }
  return table;
}

/** The forwards and backwards of `rank`, in order. */
export function computeOrder(plan: SchedulePlan, rank: number): Compute[] {
  const table = forwardTable(plan);
  const forward = (k: number): Compute => ({ op: 'forward', ...table[k] });
  const backward = (k: number): Compute => ({
    op: 'backward',
    micro: table[k].micro,
    chunk: plan.virtual - 1 - table[k].chunk,
  });
  if (plan.forwardOnly) return table.map((_, k) => forward(k));
  const all = table.length;
  const warmup = warmupForwards(plan, rank);
  const order: Compute[] = [];
  for (let k = 0; k < warmup; k++) order.push(forward(k));
  for (let k = warmup; k < all; k++) order.push(forward(k), backward(k - warmup));
  for (let k = all - warmup; k < all; k++) order.push(backward(k));
  return order;
}

/** A place in the pipeline: a rank and its chunk. */
export interface Place {
  readonly rank: number;
  readonly chunk: number;
}

/** The place that a chunk's output goes to; null after the last. */
export function nextPlace({ stages, virtual }: SchedulePlan, { rank, chunk }: Place): Place | null {
  if (rank < stages - 1) return { rank: rank + 1, chunk };
  return chunk < virtual - 1 ? { rank: 0, chunk: chunk + 1 } : null;
}

/** The place that a chunk's input comes from; null before the first. */
export function previousPlace({ stages }: SchedulePlan, { rank, chunk }: Place): Place | null {
  if (rank > 0) return { rank: rank - 1, chunk };
  return chunk > 0 ? { rank: stages - 1, chunk: chunk - 1 } : null;
}

interface Timed extends Compute {
  readonly begin: number;
  readonly end: number;
}

/** When every forward and backward would run on equal ranks with messages that take no time; a backward takes two forwards. */
function timeline(plan: SchedulePlan): Timed[][] {
  const orders = Array.from({ length: plan.stages }, (_, rank) => computeOrder(plan, rank));
  const ends = new Map<string, number>();
  const timed: Timed[][] = orders.map(() => []);
  for (let moved = true; moved; ) {
    moved = false;
    orders.forEach((order, rank) => {
      for (let item = order[timed[rank].length]; item; item = order[timed[rank].length]) {
        const from = sourceOf(plan, item, rank);
        const ready = from ? ends.get(keyOf(item, from)) : 0;
        if (ready === undefined) return;
        const begin = Math.max(ready, timed[rank].at(-1)?.end ?? 0);
        const end = begin + (item.op === 'forward' ? 1 : 2);
        ends.set(keyOf(item, { rank, chunk: item.chunk }), end);
        timed[rank].push({ ...item, begin, end });
        moved = true;
      }
    });
  }
  return timed;
}

const keyOf = ({ op, micro }: Compute, { rank, chunk }: Place): string => `${op} ${micro} ${rank} ${chunk}`;

/** Where an item's input comes from; null for the first forward and the backward of the loss. */
const sourceOf = (plan: SchedulePlan, { op, chunk }: Compute, rank: number): Place | null =>
  op === 'forward' ? previousPlace(plan, { rank, chunk }) : nextPlace(plan, { rank, chunk });

/**
 * What `rank` does in one step.
 *
 * Messages are put around the forwards and backwards. A message is asked for before the item that runs while its sender makes it:
 * so it travels under computation, and a send never has to wait for the receiver's call. By induction over the ideal clock nobody
 * waits in a circle, even if every send did wait. What an item sends is freed after the next item.
 */
export function schedule(options: ScheduleOptions, rank: number): Instruction[] {
  const plan = planSchedule(options);
  if (!Number.isInteger(rank) || rank < 0 || rank >= plan.stages)
    throw new RangeError(`schedule: rank ${rank} is not in 0 to ${plan.stages - 1}`);
  return listOf(plan, timeline(plan), rank);
}

function listOf(plan: SchedulePlan, timed: Timed[][], rank: number): Instruction[] {
  const sentAt = new Map(timed.flatMap((items, r) => items.map((t) => [keyOf(t, { rank: r, chunk: t.chunk }), t.end])));
  const own = timed[rank];
  const receives = own
    .flatMap((item) => {
      const from = sourceOf(plan, item, rank);
      if (!from) return [];
      const time = sentAt.get(keyOf(item, from)) as number;
      return [
        { time, op: item.op === 'forward' ? 'recvForward' : 'recvBackward', micro: item.micro, chunk: item.chunk },
      ];
    })
    .sort((a, b) => a.time - b.time) as (Instruction & { time: number })[];
  const out: Instruction[] = [];
  let asked = 0;
  const askUntil = (time: number): void => {
    for (; asked < receives.length && receives[asked].time <= time; asked++) {
      const { op, micro, chunk } = receives[asked];
      out.push({ op, micro, chunk });
    }
  };
  let unsent: Instruction | null = null;
  own.forEach(({ op, micro, chunk }, i) => {
    // All that is sent until the next item begins: this item is the last to begin before that.
    askUntil(own[i + 1]?.begin ?? Number.POSITIVE_INFINITY);
    out.push({ op, micro, chunk });
    if (unsent) out.push(unsent);
    unsent = null;
    const to = op === 'forward' ? nextPlace(plan, { rank, chunk }) : previousPlace(plan, { rank, chunk });
    if (!to) return;
    out.push({ op: op === 'forward' ? 'sendForward' : 'sendBackward', micro, chunk });
    unsent = { op: op === 'forward' ? 'freeForward' : 'freeBackward', micro, chunk };
  });
  if (unsent) out.push(unsent);
  return out;
}

/** The lists of all ranks. */
export function schedules(options: ScheduleOptions): Instruction[][] {
  const plan = planSchedule(options);
  const timed = timeline(plan);
  return timed.map((_, rank) => listOf(plan, timed, rank));
}
