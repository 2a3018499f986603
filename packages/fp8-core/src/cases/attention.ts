import { referenceBackend } from '../backends/reference.ts';
import { empty, scope } from '../tensor.ts';
import type { TensorSpec } from './case.ts';
import { tensorFrom, valuesOf } from './tensors.ts';

/** y and lse of attention over these inputs, for cases of its backward kernel; computed by the reference. */
export function attentionOf(
  qkv: TensorSpec,
  shape: { seq: number; batch: number; heads: number; kv_heads: number; head_dim: number },
  softmax_scale: number,
): { y: Float32Array; lse: Float32Array } {
  const backend = referenceBackend();
  return scope(() => {
    const y = empty(backend, [shape.seq * shape.batch * shape.heads * shape.head_dim], 'f32');
    const lse = empty(backend, [shape.batch * shape.heads * shape.seq], 'f32');
    const x = tensorFrom(backend, qkv.dtype, qkv.values ?? []);
    backend.kernels.attention_forward({ y, lse, qkv: x, ...shape, softmax_scale });
    return { y: valuesOf(y), lse: valuesOf(lse) };
  });
}
