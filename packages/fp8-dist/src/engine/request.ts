import type { DType } from 'fp8-core';
import type { ReduceOp } from '../math/math.ts';
import type { OpCode } from './descriptor.ts';

/** One collective as the engine of one rank sees it. */
export interface OpRequest {
  /** Names the work to whoever posted it. */
  id: number;
  group: number;
  groupName: string;
  channel: number;
  opSeq: number;
  /** Global ranks of the members, in group order. */
  members: readonly number[];
  code: OpCode;
  dtype: DType;
  reduce: ReduceOp;
  mean: boolean;
  steps: boolean;
  range: 'fit' | 'keep';
  root: number;
  /** The tensors; results go back into them unless `out` is given. */
  segments: readonly Uint8Array[];
  out: readonly Uint8Array[] | null;
  /** Element offsets, members + 1 of them: rank i's share is [bounds[i], bounds[i + 1]). For allToAll and send: what goes to i. */
  bounds: readonly number[];
  /** allToAll and send: where in `out` what comes from i begins. */
  outBounds: readonly number[] | null;
  /** Folds shapes that the ranks must agree on and that the other fields do not show. */
  shape: number;
  /** One a segment for scaled dtypes, in and out; empty for others. */
  scales: Float32Array;
  timeoutMs: number;
}
