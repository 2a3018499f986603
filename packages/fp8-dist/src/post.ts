// Posts a planned collective: on the lane where all members share a machine, else to the comm worker. Both end alike: scales and
// what was copied go back to the tensors when the caller has waited.
import { type DType, dtypes } from 'fp8-core';
import type { Communicator } from './communicator.ts';
import type { OpCode } from './engine/descriptor.ts';
import type { Lane } from './lane/lane.ts';
import type { ReduceOp } from './math/math.ts';
import { type Operand, sizeOf, type Staged, stage, stageForLane } from './operand.ts';
import { StartedWork, type Work } from './work.ts';

export interface ReduceOptions {
  /** Default `sum`. `mean` is the sum divided by the group's size; for scaled dtypes the division goes into the scale. */
  op?: ReduceOp | 'mean';
  /**
   * Scaled dtypes. `fit` (default): the result's scale leaves room for the sum of all ranks, nothing saturates. `keep`: the
   * shared minimum scale stays, as in FP8-LM, where a factor mu before the cast keeps the sum in range.
   */
  range?: 'fit' | 'keep';
  /** Round to the dtype after every addition, as the paper's authors do; for comparison only. */
  roundEachStep?: boolean;
}

/** What a collective does, before it has a number. */
export interface Plan {
  code: OpCode;
  input: readonly Operand[];
  out?: readonly Operand[];
  bounds: readonly number[];
  outBounds?: readonly number[];
  reduce?: ReduceOptions;
  root?: number;
  /** What all ranks must agree on besides. */
  shape?: readonly number[];
  /** Which of `input` are written. */
  written?: (index: number) => boolean;
  /** Sends between two ranks number themselves. */
  channel?: PairChannel;
}

/** What is sent from one rank to another. */
export interface PairChannel {
  id: number;
  /** Global ranks: who sends, who receives. */
  members: readonly number[];
  /** Its channel on the lane, or -1: through the comm worker. */
  lane: number;
}

/** Who calls it, and as which one. */
export interface Call {
  comm: Communicator;
  group: number;
  groupName: string;
  channel: number;
  /** Global ranks. */
  members: readonly number[];
  opSeq: number;
  dtype: DType;
  /** Folds the shapes. */
  shape: number;
  timeoutMs: number;
  /** The group has talked for the first time. */
  onMet: () => void;
}

const noScales = new Float32Array(0);

/** Elements of several operands. */
export const total = (list: readonly Operand[]): number => list.reduce((n, x) => n + sizeOf(x), 0);

/** What lane and worker are told alike. */
function common(plan: Plan, call: Call) {
  const { op = 'sum', range = 'fit', roundEachStep = false } = plan.reduce ?? {};
  return {
    group: call.group,
    groupName: call.groupName,
    channel: call.channel,
    members: call.members,
    opSeq: call.opSeq,
    code: plan.code,
    dtype: call.dtype,
    reduce: op === 'mean' ? ('sum' as const) : op,
    mean: op === 'mean',
    steps: roundEachStep,
    range,
    root: plan.root ?? 0,
    shape: call.shape,
    bounds: plan.bounds,
  };
}

/** The ends of a posted collective: `finish` after success, `drop` after a failure. */
function ends<R>(plan: Plan, call: Call, staged: Staged<R>[], stagedOut: Staged<R>[] | null, scales: Float32Array) {
  const written = plan.written ?? (() => true);
  return {
    finish: () => {
      call.onMet();
      staged.forEach((s, i) => {
        s.finish(scales[i] ?? 1, written(i));
      });
      stagedOut?.forEach((s, i) => {
        s.finish(scales[i] ?? 1, true);
      });
    },
    drop: () => {
      for (const s of staged) s.drop();
      for (const s of stagedOut ?? []) s.drop();
    },
  };
}

/** @param channel the group's on the lane. @throws DistError if communication has failed or ended */
export function postToLane(plan: Plan, call: Call, channel: number): Work {
  const { comm } = call;
  comm.checkOpen(plan.code, call.groupName);
  const lane = comm.lane as Lane;
  const staged = plan.input.map(stageForLane);
  const stagedOut = plan.out?.map(stageForLane) ?? null;
  const scales = dtypes[call.dtype].scaled ? Float32Array.from(staged, (s) => s.scale) : noScales;
  const { finish, drop } = ends(plan, call, staged, stagedOut, scales);
  try {
    const op = lane.post(channel, {
      ...common(plan, call),
      count: Math.max(total(plan.input), total(plan.out ?? [])),
      scales,
      inputs: staged.map((s) => s.region),
      outputs: stagedOut?.map((s) => s.region) ?? null,
    });
    const running = { isDone: () => lane.isDone(op), sleep: () => lane.wait(op, call.timeoutMs) };
    return new StartedWork(running, finish, drop);
  } catch (error) {
    drop();
    throw error;
  }
}

/** @throws DistError if communication has failed or ended */
export function postToWorker(plan: Plan, call: Call): Work {
  const { comm, timeoutMs } = call;
  const staged = plan.input.map((x) => stage(x, comm.native));
  const stagedOut = plan.out?.map((x) => stage(x, comm.native)) ?? null;
  const owners = dtypes[call.dtype].scaled ? (staged.length ? staged : (stagedOut ?? [])) : [];
  const scales = owners.length ? new SharedArrayBuffer(4 * owners.length) : null;
  const view = scales ? new Float32Array(scales) : noScales;
  view.set(owners.map((s) => s.scale));
  const { finish, drop } = ends(plan, call, staged, stagedOut, view);
  try {
    const slot = comm.post({
      ...common(plan, call),
      segments: staged.map((s) => s.region),
      out: stagedOut?.map((s) => s.region) ?? null,
      outBounds: plan.outBounds ?? null,
      scales,
      timeoutMs,
    });
    const running = { isDone: () => comm.isSlotDone(slot), sleep: () => comm.sleep(slot, timeoutMs) };
    return new StartedWork(running, finish, drop);
  } catch (error) {
    drop();
    throw error;
  }
}
