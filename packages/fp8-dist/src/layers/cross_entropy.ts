// Softmax cross-entropy over a vocabulary cut over the tensor group.
//
// A rank needs of the others, for each row, only four numbers: their maximum, their sum of exponentials under it, the logit of
// the target where they have it, and for label smoothing the sum of their logits. One gather of these replaces Megatron's
// three reductions, and the smoothed loss does not depend on how the vocabulary is cut (Megatron's does: it smooths over the
// local slice).
import { defineOp, empty, isTraining, type Tensor } from 'fp8-core';
import type { Group } from '../group.ts';
import type { Work } from '../work.ts';
import { vocabRange } from './parallel.ts';

/** The group's statistics of a chunk of rows on their way: [ranks, rows, 4] f32. */
export interface GatheredStats {
  readonly stats: Tensor;
  readonly work: Work;
}

/** @param logits [rows, V of this rank] @param start first of this rank's vocabulary */
export function gatherStats(logits: Tensor, targets: Tensor, start: number, group: Group): GatheredStats {
  const [rows, vocab] = logits.shape;
  const { backend } = logits;
  const own = empty(backend, [rows, 4], 'f32');
  backend.kernels.softmax_stats({ stats: own, logits, targets, rows, vocab, vocab_start: start });
  const stats = empty(backend, [group.size, rows, 4], 'f32');
  return { stats, work: group.allGather(stats, own) };
}

export interface LossOfStats {
  logits: Tensor;
  loss: Tensor;
  targets: Tensor;
  start: number;
  vocabSize: number;
  gradScale: number;
  smoothing: number;
  backward: boolean;
}

/** Writes the rows' losses, and with `backward` the logits' gradients in their place. */
export function lossOfStats({ stats, work }: GatheredStats, a: LossOfStats): void {
  work.wait();
  const { logits, loss, targets } = a;
  const [rows, vocab] = logits.shape;
  logits.backend.kernels.sharded_cross_entropy({
    logits,
    loss,
    stats,
    targets,
    rows,
    vocab,
    vocab_start: a.start,
    parts: stats.shape[0],
    total: a.vocabSize,
    grad_scale: a.gradScale,
    smoothing: a.smoothing,
    backward: a.backward ? 1 : 0,
  });
}

/**
 * Mean softmax cross-entropy over a vocabulary split across the group, in nats. For models of your own; `parallelHeadLoss` does
 * the head's product and this in chunks, without ever storing all logits.
 * @param logits [T, B, V of this rank], see `vocabRange`
 * @param targets i32 [T, B] in [0, V); a negative one is ignored
 * @param vocabSize V
 * @param smoothing label smoothing in [0, 1), over the whole vocabulary
 * @returns f32 [1], equal on every rank; its gradient is 1
 * @see Shoeybi et al. 2019, section 3 (arXiv:1909.08053)
 */
export const vocabParallelCrossEntropy = defineOp({
  name: 'vocabParallelCrossEntropy',
  forward(
    context,
    logits: Tensor,
    targets: Tensor,
    numTargets: number,
    vocabSize: number,
    group: Group,
    smoothing: number = 0,
  ) {
    const { backend } = logits;
    const vocab = logits.shape.at(-1) as number;
    const [begin, end] = vocabRange(vocabSize, group);
    if (vocab !== end - begin)
      throw new RangeError(
        `vocabParallelCrossEntropy: logits are [${logits.shape}]; rank ${group.rank} of ${group.size} has entries [${begin}, ${end}) of ${vocabSize}`,
      );
    const rows = logits.size / vocab;
    const backward = isTraining() && context.wants[0] === true;
    // The gradient goes where a copy of the logits is: the caller's stay.
    const gradient = empty(backend, [rows, vocab], logits.dtype);
    backend.copy(gradient.handle, logits.handle);
    const losses = empty(backend, [rows], 'f32');
    const flat = targets.reshape(rows);
    const options = {
      loss: losses,
      targets: flat,
      start: begin,
      vocabSize,
      gradScale: 1 / numTargets,
      smoothing,
      backward,
    };
    lossOfStats(gatherStats(gradient, flat, begin, group), { ...options, logits: gradient });
    if (backward) context.save(gradient.reshape(...logits.shape));
    const loss = empty(backend, [1], 'f32');
    backend.kernels.sum({ y: loss, x: losses, n: rows, alpha: 1 / numTargets });
    return loss;
  },
  backward(context) {
    return [context.saved[0] ?? null, null];
  },
});
