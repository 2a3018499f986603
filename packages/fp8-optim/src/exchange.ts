import type { Parameter, Tensor } from 'fp8-core';

/**
 * What the ranks of a job tell each other during an optimizer step. All ranks make the same calls in the same order; gradients
 * have been reduced before.
 */
export interface OptimizerExchange {
  /** Whether this rank keeps the moments of a parameter and updates it. */
  owns(p: Parameter): boolean;
  /** Whether this rank measures the gradient's norm: one rank of those that hold the same bytes. */
  measures(p: Parameter): boolean;
  /** Sums over the job, in place. @param sums f32 [parameters]: sum of squares of each gradient that this rank measures, else 0 */
  sum(sums: Tensor): void;
  /** After an update: brings weights and mu from their owners to the other ranks. */
  publish(): void;
}

/** One rank that owns everything. */
export const alone: OptimizerExchange = {
  owns: () => true,
  measures: () => true,
  sum() {},
  publish() {},
};
