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

/** Where an operation runs: in the comm worker, or on the lane. */
export interface Running {
  /** True once `sleep` would return at once. */
  isDone(): boolean;
  /** Sleeps until the operation is done. @throws DistError if it failed */
  sleep(): void;
}

/** An operation that was started. */
export class StartedWork<T> implements Work<T> {
  private readonly running: Running;
  private readonly finish: () => T;
  private readonly drop: () => void;
  private result: { value: T } | null = null;
  private error: Error | null = null;

  /**
   * @param finish after success: writes back and lets the tensors go
   * @param drop after a failure: only lets them go
   */
  constructor(running: Running, finish: () => T, drop: () => void) {
    this.running = running;
    this.finish = finish;
    this.drop = drop;
  }

  get isDone(): boolean {
    return this.result !== null || this.error !== null || this.running.isDone();
  }

  wait(): T {
    if (this.error) throw this.error;
    if (!this.result) {
      try {
        this.running.sleep();
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
