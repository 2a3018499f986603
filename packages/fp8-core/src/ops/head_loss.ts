// The output head and the cross-entropy, fused in chunks of rows: the [T B, V] logits are never stored whole.
//
// In training the forward pass already computes the gradients. The loss is the end of the graph and its gradient is a known
// constant, so each chunk goes logits -> dlogits in place -> dx, dw at once; keeping the logits for a backward pass would cost
// their memory, recomputing them a third more of the head's work. Backward then only hands out dx.
//
// On a backend with a `rowUnit` that the vocabulary is no multiple of, the products run over padded rows: of the logits, of a
// bf16 copy of the head and of its gradient. The padding is zero throughout.
import type { Parameter } from '../parameter.ts';
import { defineOp, isTraining } from '../tape.ts';
import type { DType } from '../dtype.ts';
import { empty, scope, type Tensor } from '../tensor.ts';
import { accumulateProduct, rowsOf } from './linear.ts';

export interface HeadLossOptions {
  /** Gradient of the mean loss: 1 / micro-batches for gradient accumulation. */
  gradScale?: number;
  /** Label smoothing in [0, 1). */
  smoothing?: number;
  /** Bytes of logits at a time; sets the rows of a chunk. */
  chunkBytes?: number;
}

const defaultChunkBytes = 64 * 2 ** 20;

/**
 * Mean cross-entropy in nats over targets that are not negative.
 * @param x [T, B, C]
 * @param weight the head [V, C]
 * @param targets i32 [T, B]; a negative target is ignored
 * @param numTargets how many targets are not negative: the divisor of the mean
 * @returns f32 [1]
 */
export const headLoss = defineOp({
  name: 'headLoss',
  forward(context, x: Tensor, weight: Parameter, targets: Tensor, numTargets: number, options: HeadLossOptions = {}) {
    const { backend } = x;
    const { gradScale = 1, smoothing = 0, chunkBytes = backend.scratchBytes ?? defaultChunkBytes } = options;
    const { kernels } = backend;
    const rows = rowsOf(x);
    const [vocab, dim] = weight.shape;
    if (targets.size !== rows) throw new RangeError(`headLoss: x has ${rows} rows, targets are [${targets.shape}]`);
    const backward = isTraining() && context.wants[0] === true;
    const head = new PaddedHead(weight, x.dtype, backward);
    const { stride } = head;
    const chunk = chunkRows(rows, stride * (x.dtype === 'f32' ? 4 : 2), chunkBytes);
    const compute_f32 = x.dtype === 'f32' ? 1 : 0;
    const losses = empty(backend, [rows], 'f32');
    const flat = x.reshape(rows, dim);
    const flatTargets = targets.reshape(rows);
    const dx = backward ? empty(backend, x.shape, x.dtype) : null;
    const flatDx = dx?.reshape(rows, dim);
    for (let begin = 0; begin < rows; begin += chunk) {
      const end = Math.min(rows, begin + chunk);
      scope(() => {
        const m = end - begin;
        const part = flat.slice(begin, end);
        const logits = empty(backend, [m, stride], x.dtype);
        kernels.gemm({
          c: logits,
          a: part,
          b: head.data,
          m,
          n: stride,
          k: dim,
          trans_a: 0,
          trans_b: 1,
          accumulate: 0,
          compute_f32,
          alpha: 1,
        });
        kernels.softmax_cross_entropy({
          logits,
          loss: losses.slice(begin, end),
          targets: flatTargets.slice(begin, end),
          rows: m,
          vocab,
          stride,
          grad_scale: gradScale / numTargets,
          smoothing,
          backward: backward ? 1 : 0,
        });
        if (!flatDx) return;
        const c = flatDx.slice(begin, end);
        kernels.gemm({
          c,
          a: logits,
          b: head.data,
          m,
          n: dim,
          k: stride,
          trans_a: 0,
          trans_b: 0,
          accumulate: 0,
          compute_f32,
          alpha: 1,
        });
        head.accumulate(logits, part, m, compute_f32);
      });
    }
    head.finish();
    if (dx) context.save(dx);
    const loss = empty(backend, [1], 'f32');
    kernels.sum({ y: loss, x: losses, n: rows, alpha: 1 / numTargets });
    return loss;
  },
  backward(context) {
    return [context.saved[0] ?? null, null];
  },
});

/** The head as the products of one call see it: the weight itself, or with rows of zeros that fill up the vocabulary. */
class PaddedHead {
  /** [stride, C] */
  readonly data: Tensor;
  readonly stride: number;
  private readonly weight: Parameter;
  /** f32 [stride, C], where the weight's own gradient cannot be written. */
  private readonly gradient: Tensor | null;
  private started = false;

  constructor(weight: Parameter, act: DType, backward: boolean) {
    const [vocab, dim] = weight.shape;
    const { backend, data } = weight;
    const unit = act === 'bf16' && weight.format.grad === 'f32' ? (backend.rowUnit ?? 1) : 1;
    this.weight = weight;
    this.stride = Math.ceil(vocab / unit) * unit;
    const padded = this.stride > vocab;
    this.gradient = padded && backward ? empty(backend, [this.stride, dim], 'f32') : null;
    this.data = data;
    if (!padded) return;
    this.data = empty(backend, [this.stride, dim], act);
    const [whole, padding] = [this.data.slice(0, vocab), this.data.slice(vocab, this.stride)];
    backend.kernels.cast({ y: whole, x: data, n: data.size, random: 0 });
    backend.kernels.fill({ y: padding, n: padding.size, value: 0 });
  }

  /** Adds dlogits^T x to the gradient; dlogits [m, stride], x [m, C]. */
  accumulate(dlogits: Tensor, x: Tensor, m: number, compute_f32: number): void {
    const { weight, stride, gradient } = this;
    if (!gradient) return accumulateProduct(weight, dlogits, x, m, compute_f32);
    weight.backend.kernels.gemm({
      c: gradient,
      a: dlogits,
      b: x,
      m: stride,
      n: weight.shape[1],
      k: m,
      trans_a: 1,
      trans_b: 0,
      accumulate: this.started ? 1 : 0,
      compute_f32,
      alpha: 1,
    });
    this.started = true;
  }

  /** Hands the sum of all chunks to the weight. */
  finish(): void {
    if (!this.gradient || !this.started) return;
    const { backend, shape } = this.weight;
    const { grad, accumulate } = this.weight.gradForAccumulation();
    const sum = this.gradient.slice(0, shape[0]);
    if (accumulate) backend.kernels.add({ y: grad, a: grad, b: sum, n: grad.size });
    else backend.copy(grad.handle, sum.handle);
  }
}

/** Rows of a chunk: as many as fit the budget, evenly split, in multiples of 16. */
function chunkRows(rows: number, rowBytes: number, budget: number): number {
  const most = Math.max(16, Math.floor(budget / rowBytes));
  const chunks = Math.ceil(rows / most);
  return Math.ceil(rows / chunks / 16) * 16;
}
