import { attentionOf } from '../attention.ts';
import { close, input, type KernelCase, kernelCase, output } from '../case.ts';

interface Shape {
  seq: number;
  batch: number;
  heads: number;
  kv_heads: number;
  head_dim: number;
}

const shapes: Shape[] = [
  { seq: 1, batch: 1, heads: 1, kv_heads: 1, head_dim: 1 },
  { seq: 5, batch: 2, heads: 2, kv_heads: 2, head_dim: 8 },
  { seq: 33, batch: 1, heads: 4, kv_heads: 2, head_dim: 16 },
  { seq: 70, batch: 2, heads: 3, kv_heads: 1, head_dim: 20 },
  { seq: 130, batch: 1, heads: 2, kv_heads: 1, head_dim: 64 },
  { seq: 21, batch: 1, heads: 2, kv_heads: 1, head_dim: 128 },
  { seq: 150, batch: 1, heads: 2, kv_heads: 1, head_dim: 104 },
];

/** With values of standard deviation 8 scores reach several hundred, so the exponent alone errs by 3e-5 in float32. */
const near = (t: 'f32' | 'bf16', std: number) =>
  t === 'f32'
    ? close(1e-5, std > 1 ? 1e-4 : 5e-6, 'float32 scores and exp, sums in another order')
    : close(2 ** -7, 4e-3, 'probabilities and results in bf16 (8 bits)');
const nearLse = close(1e-5, 2e-6, 'float32 log and sums');
const title = (t: string, s: Shape) =>
  `${t}, T ${s.seq}, B ${s.batch}, heads ${s.heads}/${s.kv_heads}, D ${s.head_dim}`;
const widthOf = (s: Shape) => (s.heads + 2 * s.kv_heads) * s.head_dim;

const whole: KernelCase[] = (['f32', 'bf16'] as const).flatMap((t) =>
  shapes.flatMap((s) => {
    const size = s.seq * s.batch * s.heads * s.head_dim;
    const all = s.seq * s.batch * widthOf(s);
    const softmax_scale = 1 / Math.sqrt(s.head_dim);
    return [1, 8].flatMap((std) => [
      kernelCase(
        'attention_forward',
        `${title(t, s)}, values of ${std}`,
        (r) => ({
          y: output(t, size),
          lse: output('f32', s.batch * s.heads * s.seq),
          qkv: input(t, r.normals(all, std)),
          ...s,
          softmax_scale,
        }),
        { y: near(t, std), lse: nearLse },
      ),
      kernelCase(
        'attention_backward',
        `${title(t, s)}, values of ${std}`,
        (r) => {
          const qkv = input(t, r.normals(all, std));
          const { y, lse } = attentionOf(qkv, s, softmax_scale);
          return {
            dqkv: output(t, all),
            dy: input(t, r.normals(size)),
            y: input(t, y),
            lse: input('f32', lse),
            qkv,
            ...s,
            softmax_scale,
          };
        },
        { dqkv: near(t, std) },
      ),
    ]);
  }),
);

const cached: KernelCase[] = (['f32', 'bf16'] as const).flatMap((t) =>
  [
    { seq: 1, batch: 1, heads: 2, kv_heads: 2, head_dim: 8, start: 0, max_seq: 4 },
    { seq: 1, batch: 3, heads: 4, kv_heads: 2, head_dim: 20, start: 70, max_seq: 71 },
    { seq: 19, batch: 2, heads: 4, kv_heads: 1, head_dim: 16, start: 0, max_seq: 32 },
    { seq: 5, batch: 2, heads: 3, kv_heads: 3, head_dim: 33, start: 40, max_seq: 64 },
  ].map((s) =>
    kernelCase(
      'attention_cached',
      `${title(t, s)}, from ${s.start} of ${s.max_seq}`,
      (r) => {
        const cache = s.max_seq * s.batch * s.kv_heads * s.head_dim;
        return {
          y: output(t, s.seq * s.batch * s.heads * s.head_dim),
          keys: input(t, r.normals(cache)),
          values: input(t, r.normals(cache)),
          qkv: input(t, r.normals(s.seq * s.batch * widthOf(s))),
          ...s,
          softmax_scale: 1 / Math.sqrt(s.head_dim),
        };
      },
      { y: near(t, 1) },
    ),
  ),
);

export const attentionCases: readonly KernelCase[] = [...whole, ...cached];
