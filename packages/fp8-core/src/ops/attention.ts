import { defineOp } from '../tape.ts';
import { empty, emptyLike, type Tensor } from '../tensor.ts';

export interface Heads {
  /** Query heads. */
  heads: number;
  /** Key and value heads; query head h reads kv head floor(h / (heads / kvHeads)). */
  kvHeads: number;
  headDim: number;
}

function checkRows(op: string, qkv: Tensor, h: Heads): [seq: number, batch: number] {
  const width = (h.heads + 2 * h.kvHeads) * h.headDim;
  const [seq, batch, channels] = qkv.shape;
  if (qkv.shape.length !== 3 || channels !== width) {
    throw new RangeError(
      `${op}: qkv is [${qkv.shape}]; need [T, B, (${h.heads} + 2 * ${h.kvHeads}) * ${h.headDim} = ${width}]`,
    );
  }
  return [seq, batch];
}

/**
 * Causal softmax attention, fused: no T x T matrix is ever stored.
 * @param qkv [T, B, (heads + 2 kvHeads) headDim], q before k before v, heads major
 * @returns [T, B, heads headDim]
 * @see Dao et al. 2022 (arXiv:2205.14135)
 */
export const attention = defineOp({
  name: 'attention',
  forward(context, qkv: Tensor, h: Heads) {
    const [seq, batch] = checkRows('attention', qkv, h);
    const y = empty(qkv.backend, [seq, batch, h.heads * h.headDim], qkv.dtype);
    const lse = empty(qkv.backend, [batch, h.heads, seq], 'f32');
    qkv.backend.kernels.attention_forward({ y, lse, qkv, ...kernelHeads(seq, batch, h) });
    context.save(qkv, y, lse);
    context.state = h;
    return y;
  },
  backward(context, dy) {
    const h = context.state as Heads;
    const [qkv, y, lse] = context.saved;
    const dqkv = emptyLike(qkv);
    qkv.backend.kernels.attention_backward({ dqkv, dy, y, lse, qkv, ...kernelHeads(qkv.shape[0], qkv.shape[1], h) });
    return [dqkv];
  },
});

const kernelHeads = (seq: number, batch: number, h: Heads) => ({
  seq,
  batch,
  heads: h.heads,
  kv_heads: h.kvHeads,
  head_dim: h.headDim,
  softmax_scale: 1 / Math.sqrt(h.headDim),
});

/** Keys and values of the tokens so far, [maxSeq, B, kvHeads headDim] each. */
export interface KvCache {
  keys: Tensor;
  values: Tensor;
}

/** Attention of new tokens at positions `start`.. over the cache, which takes in their keys and values. Inference only. */
export function attentionCached(qkv: Tensor, h: Heads, cache: KvCache, start: number): Tensor {
  const [seq, batch] = checkRows('attentionCached', qkv, h);
  const maxSeq = cache.keys.shape[0];
  if (start + seq > maxSeq)
    throw new RangeError(`attentionCached: positions ${start}..${start + seq} exceed the cache of ${maxSeq}`);
  const y = empty(qkv.backend, [seq, batch, h.heads * h.headDim], qkv.dtype);
  qkv.backend.kernels.attention_cached({ y, ...cache, qkv, ...kernelHeads(seq, batch, h), start, max_seq: maxSeq });
  return y;
}

/**
 * Rotary position embedding of the q and k parts, half-rotation convention.
 * @param position position of the first row, for generation
 * @see Su et al. 2021 (arXiv:2104.09864)
 */
export const rope = defineOp({
  name: 'rope',
  forward(context, qkv: Tensor, h: Heads, theta: number, position: number = 0) {
    checkRows('rope', qkv, h);
    context.state = { h, theta, position };
    return rotate(qkv, h, theta, position, 0);
  },
  backward(context, dy) {
    const { h, theta, position } = context.state as { h: Heads; theta: number; position: number };
    return [rotate(dy, h, theta, position, 1)];
  },
});

function rotate(x: Tensor, h: Heads, theta: number, position: number, inverse: number): Tensor {
  const y = emptyLike(x);
  const [seq, batch] = x.shape;
  x.backend.kernels.rope({
    y,
    x,
    rows: seq * batch,
    batch,
    heads: h.heads,
    kv_heads: h.kvHeads,
    head_dim: h.headDim,
    position,
    theta,
    inverse,
  });
  return y;
}
