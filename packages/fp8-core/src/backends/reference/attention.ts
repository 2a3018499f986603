// Causal attention with grouped queries (Vaswani et al. 2017, Ainslie et al. 2023), one query at a time, in float64. Rows are
// r = t * batch + b; a row of qkv holds q of all heads, then k and v of the kv heads. The backward pass rebuilds the
// probabilities from lse, as FlashAttention does (Dao et al. 2022).
import type { AttentionBackwardArgs, AttentionCachedArgs, AttentionForwardArgs } from '../../kernels.gen.ts';
import type { CellsOf } from '../check.ts';
import { f32Of, load, storePlain } from './cells.ts';
import { checkFits, checkMultiple } from './limits.ts';

interface Heads {
  batch: number;
  heads: number;
  kv_heads: number;
  head_dim: number;
}

const qkvWidth = (h: Heads): number => (h.heads + 2 * h.kv_heads) * h.head_dim;
const kvHead = (h: Heads, head: number): number => Math.floor(head / (h.heads / h.kv_heads));

function dot(a: Float32Array, i: number, b: Float32Array, j: number, n: number): number {
  let s = 0;
  for (let d = 0; d < n; d++) s += a[i + d] * b[j + d];
  return s;
}

/** Softmax of the scores in place; returns the log of the sum of their exponentials. */
function softmax(scores: Float64Array): number {
  const top = scores.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  let sum = 0;
  for (let i = 0; i < scores.length; i++) sum += scores[i] = Math.exp(scores[i] - top);
  for (let i = 0; i < scores.length; i++) scores[i] /= sum;
  return top + Math.log(sum);
}

/**
 * One query over `count` keys and values; their row j starts at index + j * stride.
 * @returns log of the sum of exponentials
 */
function attendOne(
  y: Float32Array,
  yAt: number,
  q: Float32Array,
  qAt: number,
  keys: Float32Array,
  kAt: number,
  values: Float32Array,
  vAt: number,
  stride: number,
  count: number,
  headDim: number,
  scale: number,
): number {
  const p = new Float64Array(count);
  for (let j = 0; j < count; j++) p[j] = dot(q, qAt, keys, kAt + j * stride, headDim) * scale;
  const lse = softmax(p);
  for (let d = 0; d < headDim; d++) {
    let s = 0;
    for (let j = 0; j < count; j++) s += p[j] * values[vAt + j * stride + d];
    y[yAt + d] = s;
  }
  return lse;
}

export function attention_forward(a: CellsOf<AttentionForwardArgs>): void {
  checkMultiple('attention_forward', 'heads', a.heads, 'kv_heads', a.kv_heads);
  const { seq, batch, heads, kv_heads, head_dim } = a;
  const width = qkvWidth(a);
  const qkv = load(a.qkv, seq * batch * width);
  const y = new Float32Array(seq * batch * heads * head_dim);
  const lse = f32Of(a.lse);
  const scale = Math.fround(a.softmax_scale);
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      const kAt = b * width + (heads + kvHead(a, h)) * head_dim;
      const vAt = kAt + kv_heads * head_dim;
      for (let t = 0; t < seq; t++) {
        const row = t * batch + b;
        const yAt = (row * heads + h) * head_dim;
        const qAt = row * width + h * head_dim;
        lse[(b * heads + h) * seq + t] = attendOne(
          y,
          yAt,
          qkv,
          qAt,
          qkv,
          kAt,
          qkv,
          vAt,
          batch * width,
          t + 1,
          head_dim,
          scale,
        );
      }
    }
  }
  storePlain(a.y, y);
}

export function attention_backward(a: CellsOf<AttentionBackwardArgs>): void {
  checkMultiple('attention_backward', 'heads', a.heads, 'kv_heads', a.kv_heads);
  const { seq, batch, heads, kv_heads, head_dim } = a;
  const width = qkvWidth(a);
  const qkv = load(a.qkv, seq * batch * width);
  const dy = load(a.dy, seq * batch * heads * head_dim);
  const y = load(a.y, seq * batch * heads * head_dim);
  const lse = f32Of(a.lse);
  const scale = Math.fround(a.softmax_scale);
  const grad = new Float64Array(seq * batch * width);
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      for (let t = 0; t < seq; t++) {
        const row = t * batch + b;
        const yAt = (row * heads + h) * head_dim;
        const qAt = row * width + h * head_dim;
        const log = lse[(b * heads + h) * seq + t];
        const dyDotY = dot(dy, yAt, y, yAt, head_dim);
        for (let j = 0; j <= t; j++) {
          const kAt = (j * batch + b) * width + (heads + kvHead(a, h)) * head_dim;
          const vAt = kAt + kv_heads * head_dim;
          const p = Math.exp(dot(qkv, qAt, qkv, kAt, head_dim) * scale - log);
          const dScore = p * (dot(dy, yAt, qkv, vAt, head_dim) - dyDotY) * scale;
          for (let d = 0; d < head_dim; d++) {
            grad[vAt + d] += p * dy[yAt + d];
            grad[qAt + d] += dScore * qkv[kAt + d];
            grad[kAt + d] += dScore * qkv[qAt + d];
          }
        }
      }
    }
  }
  storePlain(a.dqkv, Float32Array.from(grad));
}

export function attention_cached(a: CellsOf<AttentionCachedArgs>): void {
  checkMultiple('attention_cached', 'heads', a.heads, 'kv_heads', a.kv_heads);
  checkFits('attention_cached', 'positions', a.start, a.seq, a.max_seq);
  const { seq, batch, heads, kv_heads, head_dim, start, max_seq } = a;
  const width = qkvWidth(a);
  const cached = kv_heads * head_dim;
  const qkv = load(a.qkv, seq * batch * width);
  for (const [cache, at] of [
    [a.keys, heads * head_dim],
    [a.values, heads * head_dim + cached],
  ] as const) {
    const all = load(cache, max_seq * batch * cached);
    for (let row = 0; row < seq * batch; row++) {
      all.set(qkv.subarray(row * width + at, row * width + at + cached), (start * batch + row) * cached);
    }
    storePlain(cache, all);
  }
  // Read back, so that a token attends to what later tokens will see of it.
  const keys = load(a.keys, max_seq * batch * cached);
  const values = load(a.values, max_seq * batch * cached);
  const y = new Float32Array(seq * batch * heads * head_dim);
  const scale = Math.fround(a.softmax_scale);
  for (let row = 0; row < seq * batch; row++) {
    const b = row % batch;
    const count = start + Math.floor(row / batch) + 1;
    for (let h = 0; h < heads; h++) {
      const at = b * cached + kvHead(a, h) * head_dim;
      const yAt = (row * heads + h) * head_dim;
      attendOne(y, yAt, qkv, row * width + h * head_dim, keys, at, values, at, batch * cached, count, head_dim, scale);
    }
  }
  storePlain(a.y, y);
}
