import type { Communicator } from './communicator.ts';
import type { Lane, LaneOp } from './lane/lane.ts';

/**
 * A collective in progress. The tensors belong to it until `wait` has returned: neither read nor write them before.
 * @template T what `wait` returns
 */
export interface Work<T = void> {
  /** Sleeps until the collective is done. @throws DistError if it failed; every later call of the communicator throws the same */
  wait(): T;
  /** True once `wait` would not sleep. */
  readonly isDone: boolean;
}

/** A work that was done before it began: groups of one rank. */
export const doneWork = <T>(value: T): Work<T> => ({ wait: () => value, isDone: true });

/** A posted operation. */
export class PostedWork<T> implements Work<T> {
  private readonly comm: Communicator;
  private readonly slot: number;
  private readonly finish: () => T;
  private readonly drop: () => void;
  private readonly timeoutMs: number;
  private result: { value: T } | null = null;
  private error: Error | null = null;

  constructor(comm: Communicator, slot: number, timeoutMs: number, finish: () => T, drop: () => void) {
    this.comm = comm;
    this.slot = slot;
    this.timeoutMs = timeoutMs;
    this.finish = finish;
    this.drop = drop;
  }

  get isDone(): boolean {
    return this.result !== null || this.error !== null || this.comm.isSlotDone(this.slot);
  }

  wait(): T {
    if (this.error) throw this.error;
    if (!this.result) {
      try {
        this.comm.sleep(this.slot, this.timeoutMs);
      } catch (error) {
        this.error = error as Error;
        this.drop();
        throw error;
      }
      this.result = { value: this.finish() };
    }
    return this.result.value;
  }
}

/** An operation on the lane. */
export class LaneWork<T> implements Work<T> {
  private readonly lane: Lane;
  private readonly op: LaneOp;
  private readonly finish: () => T;
  private readonly drop: () => void;
  private readonly timeoutMs: number;
  private result: { value: T } | null = null;
  private error: Error | null = null;

  constructor(lane: Lane, op: LaneOp, timeoutMs: number, finish: () => T, drop: () => void) {
    this.lane = lane;
    this.op = op;
    this.timeoutMs = timeoutMs;
    this.finish = finish;
    this.drop = drop;
  }

  get isDone(): boolean {
    return this.result !== null || this.error !== null || this.lane.isDone(this.op);
  }

  wait(): T {
    if (this.error) throw this.error;
    if (!this.result) {
      try {
        this.lane.wait(this.op, this.timeoutMs);
      } catch (error) {
        this.error = error as Error;
        this.drop();
        throw error;
      }
      this.result = { value: this.finish() };
    }
    return this.result.value;
  }
}

/** Waits for all, in order. */
export function waitAll(works: readonly Work<unknown>[]): void {
  for (const work of works) work.wait();
}
