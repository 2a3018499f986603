import type { ShardedCrossEntropyArgs, SoftmaxCrossEntropyArgs, SoftmaxStatsArgs, SumArgs } from '../../kernels.gen.ts';
import type { CellsOf } from '../check.ts';
import { f32Of, i32Of, load, storePlain } from './cells.ts';

/**
 * loss[r] = (1 - e) * (lse - logit[target]) + e * mean over the vocabulary of (lse - logit), e = smoothing. With `backward`
 * the logits become grad_scale * (softmax - (1 - e) * onehot - e / vocab), and what pads a row 0. A negative target: loss and
 * gradient 0.
 */
export function softmax_cross_entropy(a: CellsOf<SoftmaxCrossEntropyArgs>): void {
  const { rows, vocab, stride, smoothing, grad_scale } = a;
  if (stride < vocab) throw new RangeError(`softmax_cross_entropy: stride ${stride} is less than vocab ${vocab}`);
  const logits = load(a.logits, rows * stride);
  const targets = i32Of(a.targets);
  for (let r = 0; r < rows; r++) {
    if (targets[r] >= vocab) {
      throw new RangeError(
        `softmax_cross_entropy: target ${targets[r]} of row ${r}; expected less than vocab ${vocab}`,
      );
    }
  }
  const loss = f32Of(a.loss);
  for (let r = 0; r < rows; r++) {
    const row = logits.subarray(r * stride, r * stride + vocab);
    if (a.backward) logits.fill(0, r * stride + vocab, (r + 1) * stride);
    const target = targets[r];
    if (target < 0) {
      loss[r] = 0;
      if (a.backward) row.fill(0);
      continue;
    }
    let top = Number.NEGATIVE_INFINITY;
    for (const v of row) top = Math.max(top, v);
    let sum = 0;
    let mean = 0;
    for (const v of row) {
      sum += Math.exp(v - top);
      mean += v / vocab;
    }
    const lse = top + Math.log(sum);
    loss[r] = (1 - smoothing) * (lse - row[target]) + (smoothing > 0 ? smoothing * (lse - mean) : 0);
    if (!a.backward) continue;
    for (let c = 0; c < vocab; c++) {
      const wanted = (c === target ? 1 - smoothing : 0) + smoothing / vocab;
      row[c] = (Math.exp(row[c] - lse) - wanted) * grad_scale;
    }
  }
  if (a.backward) storePlain(a.logits, logits);
}

/** What a rank tells of its slice of the logits: [max, sum exp(x - max), logit of the target or 0, sum of logits] a row. */
export function softmax_stats(a: CellsOf<SoftmaxStatsArgs>): void {
  const { rows, vocab, vocab_start } = a;
  const logits = load(a.logits, rows * vocab);
  const targets = i32Of(a.targets);
  const stats = f32Of(a.stats);
  for (let r = 0; r < rows; r++) {
    const row = logits.subarray(r * vocab, (r + 1) * vocab);
    let top = Number.NEGATIVE_INFINITY;
    for (const v of row) top = Math.max(top, v);
    let exps = 0;
    let total = 0;
    for (const v of row) {
      exps += Math.exp(v - top);
      total += v;
    }
    const target = targets[r] - vocab_start;
    stats.set([top, exps, target >= 0 && target < vocab ? row[target] : 0, total], 4 * r);
  }
}

/** `softmax_cross_entropy` where the logits are a slice of `total`: everything else of a row is in the stats of all slices. */
export function sharded_cross_entropy(a: CellsOf<ShardedCrossEntropyArgs>): void {
  const { rows, vocab, vocab_start, parts, total, smoothing, grad_scale } = a;
  const logits = load(a.logits, rows * vocab);
  const targets = i32Of(a.targets);
  const stats = f32Of(a.stats);
  const loss = f32Of(a.loss);
  for (let r = 0; r < rows; r++) {
    if (targets[r] < total) continue;
    throw new RangeError(`sharded_cross_entropy: target ${targets[r]} of row ${r}; expected less than total ${total}`);
  }
  for (let r = 0; r < rows; r++) {
    const row = logits.subarray(r * vocab, (r + 1) * vocab);
    if (targets[r] < 0) {
      loss[r] = 0;
      if (a.backward) row.fill(0);
      continue;
    }
    const ofPart = (p: number): Float32Array => stats.subarray(4 * (p * rows + r), 4 * (p * rows + r) + 4);
    let top = Number.NEGATIVE_INFINITY;
    for (let p = 0; p < parts; p++) top = Math.max(top, ofPart(p)[0]);
    let exps = 0;
    let target = 0;
    let sum = 0;
    for (let p = 0; p < parts; p++) {
      const [own, exp, logit, logitSum] = ofPart(p);
      exps += exp * Math.exp(own - top);
      target += logit;
      sum += logitSum;
    }
    const lse = top + Math.log(exps);
    loss[r] = (1 - smoothing) * (lse - target) + (smoothing > 0 ? smoothing * (lse - sum / total) : 0);
    if (!a.backward) continue;
    for (let c = 0; c < vocab; c++) {
      const wanted = (c === targets[r] - vocab_start ? 1 - smoothing : 0) + smoothing / total;
      row[c] = (Math.exp(row[c] - lse) - wanted) * grad_scale;
    }
  }
  if (a.backward) storePlain(a.logits, logits);
}

export function sum({ y, x, n, alpha }: CellsOf<SumArgs>): void {
  let s = 0;
  for (const v of f32Of(x).subarray(0, n)) s += v;
  f32Of(y)[0] = alpha * s;
}
