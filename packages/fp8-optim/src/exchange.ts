import type { Parameter, Tensor } from 'fp8-core';

/** Rows [begin, end) of a parameter's dim 0, as it lies on this rank. */
export type Rows = readonly [begin: number, end: number];

/**
 * What the ranks of a job tell each other during an optimizer step. All ranks make the same calls in the same order; gradients
 * have been reduced before.
 */
export interface OptimizerExchange {
  /** Rows whose moments this rank keeps and which it updates: all, some, or none (null). */
  ownedRows(p: Parameter): Rows | null;
  /** Rows whose gradient's norm this rank measures; every element of the job is measured by one rank. */
  measuredRows(p: Parameter): Rows | null;
  /** Sums over the job, in place. @param sums f32 [parameters]: sum of squares of the gradient rows measured here, else 0 */
  sum(sums: Tensor): void;
  /** True if several ranks update parts of this tensor, which has one scale: master, weight and moments of a shard. */
  sharesScale(p: Parameter): boolean;
  /** Every element becomes its maximum over the ranks that share scales. */
  maxOverParts(values: Float32Array): void;
  /** Sums over the same ranks. */
  sumOverParts(values: Float32Array): void;
  /** After an update: brings weights and mu from their owners to the other ranks. */
  publish(): void;
}

export const allRows = (p: Parameter): Rows => [0, p.shape[0]];

/** One rank that owns everything. */
export const alone: OptimizerExchange = {
  ownedRows: allRows,
  measuredRows: allRows,
  sum() {},
  sharesScale: () => false,
  maxOverParts() {},
  sumOverParts() {},
  publish() {},
};
