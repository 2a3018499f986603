import { describe, expect, it } from 'vitest';
import { numericalGradient, relativeError } from '../../cases/gradients.ts';
import { tensorFrom, valuesOf } from '../../cases/tensors.ts';
import { normalAt } from '../../random.ts';
import { empty } from '../../tensor.ts';
import { referenceBackend } from '../reference.ts';

const ref = referenceBackend();
const k = ref.kernels;
const normals = (n: number, stream: number) => Float32Array.from({ length: n }, (_, i) => normalAt(6, stream, i));
const f32 = (values: ArrayLike<number>) => tensorFrom(ref, 'f32', values);

const shape = { seq: 5, batch: 2, heads: 4, kv_heads: 2, head_dim: 3, softmax_scale: 0.6 };
const { seq, batch, heads, kv_heads, head_dim } = shape;
const width = (heads + 2 * kv_heads) * head_dim;
const qkv = normals(seq * batch * width, 1);

function forward(x: Float32Array) {
  const y = empty(ref, [seq * batch * heads * head_dim], 'f32');
  const lse = empty(ref, [batch * heads * seq], 'f32');
  k.attention_forward({ y, lse, qkv: f32(x), ...shape });
  return { y, lse };
}

/** softmax(mask(q k^T * scale)) v with the whole T x T matrix of one head, as in the textbook. */
function textbook(x: Float32Array): Float64Array {
  const out = new Float64Array(seq * batch * heads * head_dim);
  const at = (t: number, b: number, head: number) => (t * batch + b) * width + head * head_dim;
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      const g = Math.floor(h / 2); // two q heads share a kv head
      for (let t = 0; t < seq; t++) {
        const p = Array.from({ length: seq }, (_, j) => {
          let s = 0;
          for (let d = 0; d < head_dim; d++) s += x[at(t, b, h) + d] * x[at(j, b, heads + g) + d];
          return j > t ? 0 : Math.exp(s * 0.6);
        });
        const total = p.reduce((a, c) => a + c, 0);
        for (let d = 0; d < head_dim; d++) {
          const value = p.reduce((s, w, j) => s + (w / total) * x[at(j, b, heads + kv_heads + g) + d], 0);
          out[((t * batch + b) * heads + h) * head_dim + d] = value;
        }
      }
    }
  }
  return out;
}

describe('attention', () => {
  it('is the textbook softmax, causal, with grouped heads', () => {
    expect(relativeError(valuesOf(forward(qkv).y), textbook(qkv))).toBeLessThan(1e-6);
  });

  it('lse is the log of the sum of exponentials, indexed batch, head, time', () => {
    const { lse } = forward(qkv);
    let s = 0;
    for (let j = 0; j <= 3; j++) {
      let score = 0;
      for (let d = 0; d < head_dim; d++) {
        score +=
          qkv[(3 * batch + 1) * width + 2 * head_dim + d] * qkv[(j * batch + 1) * width + (heads + 1) * head_dim + d];
      }
      s += Math.exp(score * 0.6);
    }
    expect(valuesOf(lse)[(1 * heads + 2) * seq + 3]).toBeCloseTo(Math.log(s), 5);
  });

  it('does not overflow at huge scores', () => {
    const y = valuesOf(forward(qkv.map((v) => v * 300)).y);
    expect(y.every(Number.isFinite)).toBe(true);
  });

  it('backward is the derivative in q, k and v', () => {
    const dy = normals(seq * batch * heads * head_dim, 2);
    const { y, lse } = forward(qkv);
    const dqkv = empty(ref, [qkv.length], 'f32');
    k.attention_backward({ dqkv, dy: f32(dy), y, lse, qkv: f32(qkv), ...shape });
    expect(
      relativeError(
        valuesOf(dqkv),
        numericalGradient((x) => valuesOf(forward(x).y), qkv, dy),
      ),
    ).toBeLessThan(5e-4);
  });

  it('with a cache, in steps of 2 + 1 + 2 tokens, gives what the whole sequence gives', () => {
    const max_seq = 6;
    const cache = () => f32(new Float32Array(max_seq * batch * kv_heads * head_dim));
    const [keys, values] = [cache(), cache()];
    const whole = valuesOf(forward(qkv).y);
    for (const [start, count] of [
      [0, 2],
      [2, 1],
      [3, 2],
    ]) {
      const rows = count * batch;
      const y = empty(ref, [rows * heads * head_dim], 'f32');
      const part = f32(qkv.subarray(start * batch * width, (start + count) * batch * width));
      k.attention_cached({ y, keys, values, qkv: part, ...shape, seq: count, start, max_seq });
      const size = heads * head_dim * batch;
      expect(relativeError(valuesOf(y), whole.slice(start * size, (start + count) * size))).toBeLessThan(1e-6);
    }
    const y = empty(ref, [2 * batch * heads * head_dim], 'f32');
    expect(() => k.attention_cached({ y, keys, values, qkv: f32(qkv), ...shape, seq: 2, start: 5, max_seq })).toThrow(
      'attention_cached: positions [5, 7) end beyond 6',
    );
  });
});
