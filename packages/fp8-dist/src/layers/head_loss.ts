// The output head and the cross-entropy over a cut vocabulary, fused in chunks of rows as core's `headLoss`. The exchange of a
// chunk's softmax statistics runs under the product of the next chunk's logits.
import {
  accumulateProduct,
  defineOp,
  empty,
  type HeadLossOptions,
  headLoss,
  isTraining,
  type Parameter,
  persist,
  scope,
  type Tensor,
} from 'fp8-core';
import type { Group } from '../group.ts';
import { allReduceSum, gatherRows, reduceScatterRows } from '../mappings/collect.ts';
import { type GatheredStats, gatherStats, lossOfStats } from './cross_entropy.ts';
import type { Parallel } from './parallel.ts';

/** Two chunks of logits live at a time. */
const defaultChunkBytes = 32 * 2 ** 20;

interface Head {
  weight: Parameter;
  group: Group;
  sequenceParallel: boolean;
}

/**
 * Mean cross-entropy in nats over targets that are not negative; on one rank core's `headLoss`.
 * @param x [T, B, C]; [T / tp, B, C] under sequence parallelism
 * @param weight the head [V, C], cut over the tensor group (`vocabParallelTable`)
 * @param targets i32 [T, B], the whole; a negative target is ignored
 * @param numTargets how many are not negative
 * @returns f32 [1], equal on every rank
 */
export function parallelHeadLoss(
  x: Tensor,
  weight: Parameter,
  targets: Tensor,
  numTargets: number,
  parallel: Parallel,
  options: HeadLossOptions = {},
): Tensor {
  const group = parallel.mesh.tp;
  if (group.size === 1) return headLoss(x, weight, targets, numTargets, options);
  return shardedHeadLoss(
    x,
    targets,
    { weight, group, sequenceParallel: parallel.sequenceParallel },
    numTargets,
    options,
  );
}

interface Chunk extends GatheredStats {
  begin: number;
  end: number;
  logits: Tensor;
}

/** Finishes the chunk that was opened first, and frees it. */
function closeFirst(opened: Chunk[], finish: (chunk: Chunk) => void): void {
  finish(opened[0]);
  const [{ logits, stats }] = opened.splice(0, 1);
  logits.release();
  stats.release();
}

const shardedHeadLoss = defineOp({
  name: 'parallelHeadLoss',
  forward(context, x: Tensor, targets: Tensor, head: Head, numTargets: number, options: HeadLossOptions) {
    const { weight, group, sequenceParallel } = head;
    const { gradScale = 1, smoothing = 0, chunkBytes = defaultChunkBytes } = options;
    const { backend } = x;
    const full = sequenceParallel ? gatherRows(x, group).wait() : x;
    const [vocab, dim] = weight.shape;
    const rows = full.size / dim;
    if (targets.size !== rows)
      throw new RangeError(`parallelHeadLoss: x has ${rows} rows, targets are [${targets.shape}]`);
    const backward = isTraining() && context.wants[0] === true;
    const start = weight.shard?.ranges[0][0] ?? 0;
    const compute_f32 = x.dtype === 'f32' ? 1 : 0;
    const losses = empty(backend, [rows], 'f32');
    const flat = full.reshape(rows, dim);
    const flatTargets = targets.reshape(rows);
    const dx = backward ? empty(backend, full.shape, x.dtype) : null;
    const flatDx = dx?.reshape(rows, dim);
    const product = { compute_f32, trans_a: 0, accumulate: 0, alpha: 1 };

    /** Outside of the op's scope, so that a chunk's logits are freed with it. */
    const open = (begin: number, end: number): Chunk =>
      persist(() => {
        const m = end - begin;
        const logits = empty(backend, [m, vocab], x.dtype);
        const a = flat.slice(begin, end);
        backend.kernels.gemm({ c: logits, a, b: weight.data, m, n: vocab, k: dim, trans_b: 1, ...product });
        return { begin, end, logits, ...gatherStats(logits, flatTargets.slice(begin, end), start, group) };
      });
    const finish = (chunk: Chunk): void =>
      scope(() => {
        const { begin, end, logits } = chunk;
        const loss = losses.slice(begin, end);
        const ofChunk = flatTargets.slice(begin, end);
        const scale = { gradScale: gradScale / numTargets, smoothing, backward };
        lossOfStats(chunk, { logits, loss, targets: ofChunk, start, vocabSize: weight.wholeShape[0], ...scale });
        if (!flatDx) return;
        const m = end - begin;
        const c = flatDx.slice(begin, end);
        backend.kernels.gemm({ c, a: logits, b: weight.data, m, n: dim, k: vocab, trans_b: 0, ...product });
        accumulateProduct(weight, logits, flat.slice(begin, end), m, compute_f32);
      });
    const rowsAtOnce = chunkRows(rows, vocab * (x.dtype === 'f32' ? 4 : 2), chunkBytes);
    const opened: Chunk[] = [];
    try {
      for (let begin = 0; begin < rows; begin += rowsAtOnce) {
        opened.push(open(begin, Math.min(rows, begin + rowsAtOnce)));
        if (opened.length > 1) closeFirst(opened, finish);
      }
      closeFirst(opened, finish);
    } finally {
      for (const { logits, stats } of opened) for (const t of [logits, stats]) t.release();
    }
    if (dx) context.save((sequenceParallel ? reduceScatterRows(dx, group) : allReduceSum(dx, group)).wait());
    const loss = empty(backend, [1], 'f32');
    backend.kernels.sum({ y: loss, x: losses, n: rows, alpha: 1 / numTargets });
    return loss;
  },
  backward(context) {
    return [context.saved[0] ?? null, null];
  },
});

/** As many rows as fit the budget, evenly split, in multiples of 16. */
function chunkRows(rows: number, rowBytes: number, budget: number): number {
  const most = Math.max(16, Math.floor(budget / rowBytes));
  return Math.ceil(rows / Math.ceil(rows / most) / 16) * 16;
}
